//! What serving one request costs beside an echo server in the same run: `cargo bench --bench serve`
//! (Linux, for it reads the processes' CPU time from /proc).
//!
//! Server and generator are processes of their own. The generator keeps 64 requests in flight; what
//! counts is the CPU time of the serving process, all threads, for each request answered: the
//! median of five rounds, in which node and echo take turns. The echo server answers with as many
//! bytes as the node does.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::error::Error;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kadepy::node::Node;
use kadepy::wire::message::{Body, Message};
use kadepy::wire::native;
use kadepy::{Config, NodeId};

const ROUNDS: usize = 5;
const REQUESTS: usize = 100_000;
const IN_FLIGHT: usize = 64;
const PATIENCE: Duration = Duration::from_secs(10);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("echo") => echo(arguments[2].parse()?),
        Some("node") => node(),
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
    let node = Server::start(&["node"])?;
    let network = populate(node.address)?;
    let topic = NodeId::of_topic(b"serve");
    announce(node.address, topic, 32)?;
    let targets = (0..1_024_u32).map(|i| NodeId::of_topic(&i.to_be_bytes()));
    let find_nodes = targets.map(|target| packet(Body::FindNode { target })).collect();
    let loads = [
        load("PING", node.address, vec![packet(Body::Ping)])?,
        load("FIND_NODE, 20 nodes", node.address, find_nodes)?,
        load("GET_PEERS, 32 peers", node.address, vec![packet(Body::GetPeers { topic })])?,
    ];

    println!(
        "CPU time of the serving process for one request, median of {ROUNDS} rounds of {REQUESTS}"
    );
    println!("{:22} {:>9} {:>9} {:>7}", "", "node", "echo", "ratio");
    for load in &loads {
        let echo = Server::start(&["echo", &load.answer_len.to_string()])?;
        let mut costs: [Vec<f64>; 2] = Default::default();
        for round in 0..2 * ROUNDS {
            let server = if round % 2 == 0 { &node } else { &echo };
            costs[round % 2].push(cost(server, load)?);
        }
        let [ours, floor] = costs.map(|mut costs| {
            costs.sort_by(f64::total_cmp);
            costs[ROUNDS / 2]
        });
        println!("{:22} {ours:6.2} µs {floor:6.2} µs {:7.2}", load.name, ours / floor);
    }
    drop(network);
    Ok(())
}

fn load(name: &'static str, server: SocketAddr, packets: Vec<Vec<u8>>) -> Outcome<Load> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(&packets[0], server)?;
    let mut answer = [0; 2_048];
    let answer_len = socket.recv(&mut answer)?;
    Ok(Load { name, packets, answer_len })
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
fn populate(server: SocketAddr) -> Outcome<Vec<Node>> {
    (0..100)
        .map(|_| {
            let node = Node::start("127.0.0.1:0".parse()?, None, Config::default())?;
            node.join(vec![server.into()], Some(PATIENCE))?.wait(PATIENCE)?;
            Ok(node)
        })
        .collect()
}

fn announce(server: SocketAddr, topic: NodeId, peers: u16) -> Outcome<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for port in 1..=peers {
        socket.send_to(&packet(Body::AnnouncePeer { topic, port }), server)?;
    }
    Ok(())
}

/// A packet of v0.1, as the figures of other implementations are for such.
fn packet(body: Body<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let message = Message::new(NodeId([0x77; 32]), body, None);
    native::encode(&message, native::MAX_SENT, 0, &mut out).expect("it fits");
    out
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
        Ok(Self { process, address: line.trim().parse()? })
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

fn node() -> Outcome<()> {
    let node = Node::start("127.0.0.1:0".parse()?, None, Config::default())?;
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
