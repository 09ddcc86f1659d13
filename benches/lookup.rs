//! Lookups among 200 nodes on loopback, each with its own socket: `cargo bench --bench lookup`.
//!
//! Prints how often a lookup gives exactly the 20 nearest nodes, how long it takes and how many
//! datagrams it costs.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::time::{Duration, Instant};

use kadepy::dht::protocol::Outcome;
use kadepy::node::{Node, Reply};
use kadepy::{Config, Network, NodeId};

const NODES: usize = 200;
const LOOKUPS: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..NODES {
        let node = Node::start("127.0.0.1:0".parse()?, None, &Network::Public, Config::default())?;
        if let Some(first) = nodes.first() {
            node.join(vec![first.address().into()], false, Some(PATIENCE))?.wait(PATIENCE)?;
        }
        nodes.push(node);
    }
    let joined = started.elapsed();

    let sent = |nodes: &[Node]| -> Result<u64, kadepy::node::CommandError> {
        nodes.iter().map(|node| Ok(node.stats()?.counters.packets_out.iter().sum::<u64>())).sum()
    };
    let sent_before = sent(&nodes)?;
    let (mut exact, mut found_of_20, mut times) = (0, 0, Vec::new());
    for turn in 0..LOOKUPS {
        let asker = &nodes[turn % NODES];
        let target = NodeId::of_topic(&turn.to_be_bytes());
        let begun = Instant::now();
        let reply = asker.find_node(target, Some(PATIENCE))?.wait(PATIENCE)?;
        times.push(begun.elapsed());
        let Some(Reply::Done(Outcome::Nodes(found))) = reply else {
            return Err("a lookup ended as another operation does".into());
        };
        let mut truth: Vec<NodeId> =
            nodes.iter().map(Node::id).filter(|id| *id != asker.id()).collect();
        truth.sort_by_key(|id| id.distance(&target));
        truth.truncate(20);
        exact += usize::from(found.iter().map(|node| node.id).eq(truth.iter().copied()));
        found_of_20 += found.iter().filter(|node| truth.contains(&node.id)).count();
    }
    times.sort();
    let share = |part: usize, of: usize| 100.0 * part as f64 / of as f64;
    println!("{NODES} nodes joined one after the other in {:.2} s", joined.as_secs_f64());
    println!("{LOOKUPS} lookups");
    println!("  exactly the 20 nearest  {:6.1} %", share(exact, LOOKUPS));
    println!("  of the true 20          {:6.1} %", share(found_of_20, 20 * LOOKUPS));
    println!("  median                  {:6.2} ms", times[LOOKUPS / 2].as_secs_f64() * 1e3);
    println!("  90th percentile         {:6.2} ms", times[LOOKUPS * 9 / 10].as_secs_f64() * 1e3);
    println!(
        "  datagrams a lookup      {:6.1}",
        (sent(&nodes)? - sent_before) as f64 / LOOKUPS as f64
    );
    Ok(())
}
