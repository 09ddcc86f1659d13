//! What serving one request costs beside an echo server in the same run, and what a network key or a
//! wildcard address adds to it: `cargo bench --bench serve` (Linux, because it reads the processes' CPU
//! time from /proc).
//!
//! Server and generator are processes of their own. The generator keeps 64 requests in flight; what
//! counts is the CPU time of the serving process, all threads, for each request answered: the
//! median of five rounds, in which a node, echo, a node of a sealed network and one on every address
//! take turns. The echo server answers with as many bytes as the node does.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::error::Error;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kadepy::node::Node;
use kadepy::wire::message::{Body, Message, Trailer};
use kadepy::wire::native::{self, Lists};
use kadepy::wire::seal::Seal;
use kadepy::{Config, Network, NetworkKey, NodeId};

const ROUNDS: usize = 5;
const REQUESTS: usize = 100_000;
const IN_FLIGHT: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);
const TOPIC: &[u8] = b"serve";

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("echo") => echo(arguments[2].parse()?),
        Some("node") => node("127.0.0.1:0", &Network::Public),
        Some("sealed") => node("127.0.0.1:0", &sealed()?),
        Some("wildcard") => node("0.0.0.0:0", &Network::Public),
        _ => compare(),
    }
}

/// One kind of request: its name, the packets to send in turn, and the length of each answer.
struct Load {
    name: &'static str,
    packets: Vec<Vec<u8>>,
    answer_len: usize,
}

fn compare() -> Outcome<()> {
    if !cfg!(target_os = "linux") {
        println!("serve reads CPU times from /proc: it runs on Linux only");
        return Ok(());
    }
    let plain = Target::start("node", &Network::Public)?;
    let sealed = Target::start("sealed", &sealed()?)?;
    let wildcard = Target::start("wildcard", &Network::Public)?;

    println!(
        "CPU time of the serving process for one request, median of {ROUNDS} rounds of {REQUESTS}"
    );
    print!("{:22} {:>9} {:>9} {:>7}", "", "node", "echo", "ratio");
    println!(" {:>9} {:>7} {:>9} {:>7}", "sealed", "adds", "wildcard", "adds");
    for (i, load) in plain.loads.iter().enumerate() {
        let echo = Server::start(&["echo", &load.answer_len.to_string()])?;
        let turns = [
            (&plain.server, load),
            (&echo, load),
            (&sealed.server, &sealed.loads[i]),
            (&wildcard.server, &wildcard.loads[i]),
        ];
        let mut costs: [Vec<f64>; 4] = Default::default();
        for _ in 0..ROUNDS {
            for ((server, load), costs) in turns.iter().zip(&mut costs) {
                costs.push(cost(server, load)?);
            }
        }
        let [ours, floor, sealed, wildcard] = costs.map(|mut costs| {
            costs.sort_by(f64::total_cmp);
            costs[ROUNDS / 2]
        });
        print!("{:22} {ours:6.2} µs {floor:6.2} µs {:7.2}", load.name, ours / floor);
        for other in [sealed, wildcard] {
            print!(" {other:6.2} µs {:5.0} %", (other / ours - 1.0) * 100.0);
        }
        println!();
    }
    Ok(())
}

/// A serving node of some network, a hundred more that it lists, and what to ask it.
struct Target {
    server: Server,
    loads: [Load; 3],
    _others: Vec<Node>,
}

impl Target {
    fn start(kind: &str, network: &Network) -> Outcome<Self> {
        let server = Server::start(&[kind])?;
        let mut client = Client::new(server.address, network);
        let others = populate(server.address, network)?;
        let topic = NodeId::of_topic(TOPIC);
        client.announce(topic, 32)?;
        let targets = (0..1_024_u32).map(|i| NodeId::of_topic(&i.to_be_bytes()));
        let find_nodes: Vec<_> = targets.map(|target| Body::FindNode { target }).collect();
        let loads = [
            client.load("PING", &[Body::Ping])?,
            client.load("FIND_NODE, 20 nodes", &find_nodes)?,
            client.load("GET_PEERS, 32 peers", &[Body::GetPeers { topic }])?,
        ];
        Ok(Self { server, loads, _others: others })
    }
}

/// Who makes the packets: v0.1's, as the figures of other implementations are for such.
struct Client {
    server: SocketAddr,
    seal: Seal,
}

impl Client {
    fn new(server: SocketAddr, network: &Network) -> Self {
        Self { server, seal: Seal::new(network, [1; 24]) }
    }

    /// A new socket: what the server sends to it first is the answer to its first request.
    fn socket(&self) -> Outcome<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(self.server)?;
        Ok(socket)
    }

    fn packet(&mut self, body: Body<'_>, trailer: Option<Trailer<'_>>) -> Vec<u8> {
        let mut out = Vec::new();
        let message = Message::new(NodeId([0x77; 32]), body, trailer);
        let write = |out: &mut Vec<u8>| native::encode(&message, native::MAX_SENT, 0, out);
        self.seal.append(&mut out, write).expect("it fits");
        out
    }

    fn load(&mut self, name: &'static str, bodies: &[Body<'_>]) -> Outcome<Load> {
        let packets: Vec<_> = bodies.iter().map(|body| self.packet(*body, None)).collect();
        let socket = self.socket()?;
        socket.send(&packets[0])?;
        let answer_len = socket.recv(&mut [0; 2_048])?;
        Ok(Load { name, packets, answer_len })
    }

    /// Stores peers at the server, which asks for a token where it does not trust v0.1.
    fn announce(&mut self, topic: NodeId, peers: u16) -> Outcome<()> {
        let ask = self.packet(Body::GetPeers { topic }, Some(Trailer::default()));
        let socket = self.socket()?;
        socket.send(&ask)?;
        let mut answer = [0; 2_048];
        let len = socket.recv(&mut answer)?;
        let packet = self.seal.open(&mut answer[..len]).ok_or("an answer that does not open")?;
        let mut lists = Lists::default();
        let answer = native::decode(packet, &mut lists)?;
        let token = answer.trailer.and_then(|trailer| trailer.token).ok_or("no token")?.to_owned();
        for port in 1..=peers {
            let trailer = Trailer { token: Some(&token), ..Trailer::default() };
            let announce = self.packet(Body::AnnouncePeer { topic, port }, Some(trailer));
            socket.send(&announce)?;
        }
        Ok(())
    }
}

/// Microseconds of the server's CPU time for one answer.
fn cost(server: &Server, load: &Load) -> Outcome<f64> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server.address)?;
    socket.set_nonblocking(true)?;
    let before = server.cpu_time()?;
    let (mut sent, mut answered, mut lost) = (0, 0, 0);
    let mut answer = [0; 2_048];
    let mut last_answer = Instant::now();
    while answered < REQUESTS {
        while sent - answered - lost < IN_FLIGHT {
            socket.send(&load.packets[sent % load.packets.len()])?;
            sent += 1;
        }
        match socket.recv(&mut answer) {
            // Beside its answers the node asks its new correspondent whether it is there.
            Ok(len) if len == load.answer_len => {
                answered += 1;
                last_answer = Instant::now();
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if last_answer.elapsed() > Duration::from_millis(100) {
                    lost = sent - answered;
                    last_answer = Instant::now();
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    let spent = server.cpu_time()? - before;
    Ok(spent.as_secs_f64() * 1e6 / REQUESTS as f64)
}

/// A hundred nodes that the server lists, which stay idle.
fn populate(server: SocketAddr, network: &Network) -> Outcome<Vec<Node>> {
    (0..100)
        .map(|_| {
            let node = Node::start("127.0.0.1:0".parse()?, None, network, Config::default())?;
            node.join(vec![server.into()], false, Some(PATIENCE))?.wait(PATIENCE)?;
            Ok(node)
        })
        .collect()
}

fn sealed() -> Outcome<Network> {
    Ok(Network::Sealed { key: NetworkKey::new(&[7; 32])?, older: Vec::new() })
}

/// A serving process, which ends when its standard input does.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(arguments: &[&str]) -> Outcome<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take().ok_or("a server without standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let mut address: SocketAddr = line.trim().parse()?;
        if address.ip().is_unspecified() {
            address.set_ip([127, 0, 0, 1].into());
        }
        Ok(Self { process, address })
    }

    /// The CPU time of all its threads so far, from the scheduler's own count in nanoseconds.
    fn cpu_time(&self) -> Outcome<Duration> {
        let mut nanoseconds = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let times = std::fs::read_to_string(task?.path().join("schedstat"))?;
            nanoseconds +=
                times.split_whitespace().next().ok_or("an empty schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn node(address: &str, network: &Network) -> Outcome<()> {
    let node = Node::start(address.parse()?, None, network, Config::default())?;
    println!("{}", node.address());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn echo(answer_len: usize) -> Outcome<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    println!("{}", socket.local_addr()?);
    std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = [0; 2_048];
        loop {
            let (_, from) = socket.recv_from(&mut buffer)?;
            socket.send_to(&buffer[..answer_len], from)?;
        }
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
