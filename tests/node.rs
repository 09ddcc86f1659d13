//! A running node from Rust: what its handle refuses, and what it leaves behind.

use std::io::ErrorKind;
use std::time::Duration;

use kadepy::dht::protocol::Outcome;
use kadepy::node::{CommandError, Node, Notice, Pending, Reply};
use kadepy::{Config, Endpoint, Network, NodeId};

const PATIENCE: Duration = Duration::from_secs(10);
const TOPIC: NodeId = NodeId([7; 32]);

fn node() -> Node {
    node_with(Config::default())
}

fn node_with(config: Config) -> Node {
    node_at("127.0.0.1:0", config)
}

fn node_at(address: &str, config: Config) -> Node {
    let address = address.parse().expect("an address");
    Node::start(address, None, &Network::Public, config).expect("loopback has a port to give")
}

#[test]
fn an_impossible_configuration_is_refused() {
    let config = Config { k: 60, ..Config::default() };
    let refused =
        Node::start("127.0.0.1:0".parse().unwrap(), None, &Network::Public, config).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    assert_eq!(refused.to_string(), "k must be from 1 to 20, got 60");
}

#[test]
fn a_payload_that_fits_no_packet_is_refused() {
    let (node, other) = (node(), node());
    assert_eq!(node.send(other.address().into(), 20, &[0; 1_100]), Ok(()));
    let refused = node.send(other.address().into(), 20, &[0; 1_101]);
    assert!(matches!(refused, Err(CommandError::TooLong(_))));
}

#[test]
fn a_closed_node_refuses_commands_and_frees_its_port() {
    let closed = node();
    let address = closed.address();
    closed.close();
    assert!(matches!(closed.ping(address.into(), None), Err(CommandError::Closed)));
    assert!(Node::start(address, None, &Network::Public, Config::default()).is_ok());
}

#[test]
fn who_waits_is_released_by_a_close() {
    let (node, other) = (node(), node());
    other.close();
    let pending = node.ping(other.address().into(), None).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| pending.wait(PATIENCE));
        node.close();
        assert_eq!(waiter.join().unwrap(), Err(CommandError::Closed));
    });
}

#[test]
fn an_operation_gives_nothing_after_its_end() {
    let (node, other) = (node(), node());
    let pending = node.ping(other.address().into(), Some(PATIENCE)).unwrap();
    assert!(matches!(pending.wait(PATIENCE), Ok(Some(Reply::Done(Outcome::Pong(_))))));
    assert_eq!(pending.wait(PATIENCE), Err(CommandError::Ended));
}

/// Two nodes of which the second has a membership of `TOPIC`, for which the first stores a peer.
fn two_with_a_membership() -> (Node, Node, Pending) {
    let (storer, member) = (node(), node());
    let joining = member.join(vec![storer.address().into()], false, None).expect("it is open");
    joining.wait(PATIENCE).expect("a join ends");
    let announcing = member.announce_peer(TOPIC, Some(99), None).expect("it is open");
    assert_eq!(announcing.wait(PATIENCE), Ok(Some(Reply::Done(Outcome::Announced(1)))));
    let pending = member.join_topic(TOPIC, Some(80)).expect("it is open");
    (storer, member, pending)
}

#[test]
fn a_membership_tells_that_there_are_new_peers_and_gives_them_after_a_cursor() {
    let (storer, _member, pending) = two_with_a_membership();
    assert_eq!(pending.wait(PATIENCE), Ok(Some(Reply::Members)));
    let peer = Endpoint::from(storer.address()).with_port(99);
    assert_eq!(pending.members(0), Ok(vec![(1, peer)]));
    assert_eq!(pending.members(1), Ok(vec![]));
    let stands = pending.membership().unwrap().expect("it is not over");
    assert_eq!((stands.topic, stands.port, stands.peers), (TOPIC, Some(80), 1));
}

#[test]
fn a_membership_ends_when_nobody_holds_it_any_more() {
    let node = node_with(Config { memberships: 1, ..Config::default() });
    let pending = node.join_topic(TOPIC, None).unwrap();
    assert!(matches!(node.join_topic(TOPIC, None), Err(CommandError::Busy(_))));
    drop(pending);
    assert!(node.join_topic(TOPIC, None).is_ok());
}

#[test]
fn the_members_of_a_closed_node_can_still_be_read() {
    let (_storer, member, pending) = two_with_a_membership();
    assert_eq!(pending.wait(PATIENCE), Ok(Some(Reply::Members)));
    member.close();
    assert_eq!(pending.wait(PATIENCE), Err(CommandError::Closed));
    assert_eq!(pending.members(0).map(|members| members.len()), Ok(1));
    assert_eq!(pending.membership().map(|stands| stands.is_some()), Ok(true));
}

#[test]
fn signals_that_nobody_reads_do_not_pile_up() {
    let config = Config { record_life: Duration::from_secs(1), ..Config::default() };
    let (storer, member) = (node(), node_with(config));
    member.join(vec![storer.address().into()], false, None).unwrap().wait(PATIENCE).unwrap();
    let pending = member.join_topic(TOPIC, Some(80)).unwrap();
    // Each time that there are more, it was told of them, unless something waited.
    let (mut news, mut last) = (0, 0);
    for port in 1_000.. {
        let announced = member.announce_peer(TOPIC, Some(port), None).unwrap().wait(PATIENCE);
        assert_eq!(announced, Ok(Some(Reply::Done(Outcome::Announced(1)))));
        let Some(&(newest, _)) = pending.members(last).unwrap().last() else {
            continue;
        };
        (news, last) = (news + 1, newest);
        if news == 3 {
            break;
        }
    }
    member.close();
    assert_eq!(pending.wait(PATIENCE), Ok(Some(Reply::Members)));
    assert_eq!(pending.wait(PATIENCE), Err(CommandError::Closed));
}

#[test]
fn packets_become_notices_and_the_close_the_last_one() {
    let (node, other) = (node(), node());
    node.open_notices(10);
    node.observe(true).unwrap();
    other.send(node.address().into(), 20, b"hello").unwrap();
    let Notice::Packet { from, packet } = node.wait_notice() else {
        panic!("no packet");
    };
    assert_eq!((from, &packet[33..]), (other.address().into(), &b"hello"[..]));
    node.close();
    assert!(matches!(node.wait_notice(), Notice::Closed));
}

#[test]
fn who_waits_for_a_node_to_be_alone_is_told_when_it_has_tried_and_when_it_is_closed() {
    let (node, dead) = (node(), node());
    dead.close();
    std::thread::scope(|scope| {
        node.stay_joined(vec![dead.address().into()], false).unwrap();
        assert_eq!(node.wait_alone(None), Ok(()), "its contact does not answer");
        let waiter = scope.spawn(|| while node.wait_alone(None).is_ok() {});
        node.close();
        waiter.join().unwrap();
        assert_eq!(node.wait_alone(Some(PATIENCE)), Err(CommandError::Closed));
    });
}

#[test]
fn a_queue_of_notices_that_is_opened_after_the_close_blocks_nobody() {
    let node = node();
    node.close();
    node.open_notices(10);
    assert!(matches!(node.wait_notice(), Notice::Closed));
}

#[cfg(target_os = "linux")]
#[test]
fn a_node_on_every_address_answers_from_the_one_that_was_asked() {
    let (everywhere, asker) = (node_at("0.0.0.0:0", Config::default()), node());
    let asked = Endpoint::new([127, 0, 0, 9], everywhere.address().port());
    let answer = asker.ping(asked, None).unwrap();
    assert!(matches!(answer.wait(PATIENCE), Ok(Some(Reply::Done(Outcome::Pong(_))))));
    let listed: Vec<Endpoint> =
        asker.entries().unwrap().iter().map(|entry| entry.contact.endpoint).collect();
    assert_eq!(listed, [asked]);
}

#[cfg(target_os = "linux")]
#[test]
fn closed_nodes_that_are_kept_hold_no_descriptors() {
    let held = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = descriptors.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        // Other tests of this process come and go meanwhile: only a trend counts.
        links.filter(|link| link.to_string_lossy().contains("eventpoll")).count()
    };
    let before = held();
    let closed: Vec<Node> = (0..100).map(|_| node()).collect();
    closed.iter().for_each(Node::close);
    assert!(held() < before + 50, "{} more", held() - before);
}
