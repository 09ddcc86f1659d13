"""The script of a process that has a network of its own: hosts on one switch, each in a namespace
with a process that runs what it is told. What is to happen there is left to the tests."""

from __future__ import annotations

NETWORK = '''
import ctypes, os, subprocess, sys

def write(path, text):
    with open(path, "w") as file:
        file.write(text)

def run(line):
    subprocess.run(line.split(), check=True, capture_output=True)

def enter_private():
    """Gets a network and rights of its own: NEWUSER and NEWNET."""
    ids = {"uid_map": os.getuid(), "gid_map": os.getgid()}
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000 | 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    write("/proc/self/setgroups", "deny")
    for name, inside in ids.items():
        write(f"/proc/self/{name}", f"0 {inside} 1")
    run("ip link add switch type bridge")
    run("ip link set switch up")

class Host:
    """A machine with these addresses on its card `lan0`, which a switch joins to the others."""

    def __init__(self, name, *addresses):
        wait = "import ast, sys; print('up'); exec(ast.literal_eval(sys.stdin.readline()))"
        self.process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-u", "-c", wait],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        if self.line() != "up":
            raise OSError("unshare --net failed")
        inside = f"nsenter --net=/proc/{self.process.pid}/ns/net ip "
        run(f"ip link add lan0 netns {self.process.pid} type veth peer name {name}")
        run(f"ip link set {name} master switch up")
        run(inside + "link set lo up")
        run(inside + "link set lan0 addrgenmode none up")
        for address in addresses:
            run(inside + f"addr add {address} dev lan0" + (" nodad" if ":" in address else ""))

    def start(self, script):
        self.tell(repr(script))

    def tell(self, line=""):
        self.process.stdin.write(line + "\\n")
        self.process.stdin.flush()

    def line(self):
        return self.process.stdout.readline().rstrip("\\n")

try:
    enter_private()
    hosts = [Host(f"port{number}", *addresses) for number, addresses in enumerate(HOSTS)]
except (OSError, subprocess.CalledProcessError) as error:
    print(f"no namespaces here: {error}")
    sys.exit()
print("ready")
'''
