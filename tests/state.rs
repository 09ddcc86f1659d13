//! The state file: its bytes, what is refused, what is left of it when a write fails, and nodes that
//! come back by it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::bounded;
use kadepy::dht::protocol::Outcome;
use kadepy::node::{CommandError, Line, Node, Reply, SAVE_INTERVAL, SaveError};
use kadepy::state::{self, CONTACTS_MAX, Invalid, Memory};
use kadepy::{Config, Contact, Endpoint, Network, NodeId};
use log::Level;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that goes with its test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let serial = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("kadepy-state-{}-{serial}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a name of its own");
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("node.state")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the test's own directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> =
            names.map(|name| name.into_string().expect("a name in ASCII")).collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn hex(spaced: &str) -> Vec<u8> {
    let digits: Vec<char> = spaced.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).expect("hex");
    digits.chunks(2).map(byte).collect()
}

fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    [bytes, Sha256::digest(bytes).as_slice()].concat()
}

fn contact(n: u8, address: &str) -> Contact {
    let address: std::net::SocketAddr = address.parse().expect("an address");
    Contact { id: NodeId([n; 32]), endpoint: address.into() }
}

fn memory() -> Memory {
    let contacts = vec![
        contact(2, "192.0.2.7:4000"),
        contact(3, "[2001:db8::5]:4001"),
        contact(4, "[fe80::6%3]:4002"),
    ];
    Memory { saved: 0x6543_2100, id: NodeId([1; 32]), contacts }
}

// --- the format -------------------------------------------------------------------------------

#[test]
fn the_golden_file() {
    let expected = hex("
        6b 61 64 65 70 79 20 73 74 61 74 65 20 31 0a
        00 00 00 00 65 43 21 00
        01010101 01010101 01010101 01010101 01010101 01010101 01010101 01010101

        02020202 02020202 02020202 02020202 02020202 02020202 02020202 02020202
        00000000 00000000 0000ffff c0 00 02 07  00 00  0f a0

        03030303 03030303 03030303 03030303 03030303 03030303 03030303 03030303
        20010db8 00000000 00000000 00000005  00 00  0f a1

        04040404 04040404 04040404 04040404 04040404 04040404 04040404 04040404
        fe800000 00000000 00000000 00000006  00 03  0f a2

        0e6ce236 70e3a943 c5a92e0c ebfdfdaa c8b5b636 49b163d0 6e08cf6f 4d59632d
    ");
    assert_eq!(memory().encode(), expected);
    assert_eq!(Memory::decode(&expected), Ok(memory()));
}

#[test]
fn a_contact_whose_interface_the_format_has_no_room_for_is_left_out() {
    let contacts = vec![contact(2, "[fe80::1%65536]:4000"), contact(3, "[fe80::1%65535]:4000")];
    let read = Memory::decode(&Memory { contacts: contacts.clone(), ..memory() }.encode());
    assert_eq!(read.unwrap().contacts, contacts[1..]);
}

#[test]
fn a_file_holds_512_contacts_and_no_more() {
    let many = (0..600_u16).map(|n| Contact {
        id: NodeId([1 + (n % 200) as u8; 32]),
        endpoint: Endpoint::new([10, 0, (n >> 8) as u8, n as u8], 4_000),
    });
    let all: Vec<Contact> = many.collect();
    let bytes = Memory { contacts: all.clone(), ..memory() }.encode();
    assert_eq!(bytes.len(), 15 + 8 + 32 + 512 * 52 + 32);
    assert_eq!(Memory::decode(&bytes).unwrap().contacts, all[..CONTACTS_MAX]);
    let longer = [&bytes[..bytes.len() - 32], &bytes[55..107]].concat();
    assert_eq!(Memory::decode(&with_checksum(&longer)), Err(Invalid::TooLong));
}

#[test]
fn a_later_version_and_what_is_no_state_file_are_told_apart() {
    assert_eq!(Memory::decode(b"kadepy state 2\n{json?}"), Err(Invalid::LaterVersion(2)));
    assert_eq!(Memory::decode(b"kadepy state 12\n"), Err(Invalid::LaterVersion(12)));
    let foreign: [&[u8]; 7] = [
        b"",
        b"kadepy",
        b"kadepy state 1",
        b"kadepy state 0\n",
        b"kadepy state 9999999999\n",
        b"kadepy state two\n",
        b"[settings]\nname = \"node\"\n",
    ];
    for bytes in foreign {
        assert_eq!(Memory::decode(bytes), Err(Invalid::Foreign), "{bytes:?}");
    }
    assert_eq!(
        Invalid::LaterVersion(2).to_string(),
        "it has version 2 of the format, and this KadePy reads version 1"
    );
}

#[test]
fn what_no_node_would_write_is_damaged_whatever_its_checksum() {
    let good = memory().encode();
    let body = &good[..good.len() - 32];
    let changed = |at: usize, bytes: &[u8]| {
        let mut body = body.to_vec();
        body[at..at + bytes.len()].copy_from_slice(bytes);
        with_checksum(&body)
    };
    let nobody = changed(15 + 8, &[0; 32]);
    let contact_without_an_id = changed(55, &[0xff; 32]);
    let no_port = changed(55 + 50, &[0, 0]);
    let multicast = changed(55 + 32 + 12, &[224, 0, 0, 1]);
    let half_a_contact = with_checksum(&body[..body.len() - 26]);
    let nothing = with_checksum(&body[..15]);
    for bytes in [nobody, contact_without_an_id, no_port, multicast, half_a_contact, nothing] {
        assert_eq!(Memory::decode(&bytes), Err(Invalid::Damaged));
    }
}

fn any_contact() -> impl Strategy<Value = Contact> {
    let endpoint = (any::<[u8; 16]>(), any::<bool>(), any::<u16>()).prop_map(|(ip, v4, port)| {
        if v4 { Endpoint::new([ip[0], ip[1], ip[2], ip[3]], port) } else { Endpoint::new(ip, port) }
    });
    (any::<[u8; 32]>(), endpoint).prop_map(|(id, endpoint)| Contact { id: NodeId(id), endpoint })
}

fn any_memory() -> impl Strategy<Value = Memory> {
    let contacts = prop::collection::vec(any_contact(), 0..40);
    (any::<u64>(), any::<[u8; 32]>(), contacts).prop_map(|(saved, id, mut contacts)| {
        contacts.retain(|contact| contact.endpoint.is_sendable());
        Memory { saved, id: NodeId(id), contacts }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(memory in any_memory()) {
        prop_assert_eq!(Memory::decode(&memory.encode()), Ok(memory));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), begins_well: bool) {
        let start: &[u8] = if begins_well { b"kadepy state 1\n" } else { b"" };
        prop_assert!(Memory::decode(&[start, &bytes].concat()).is_err());
        let _ = Memory::decode(&with_checksum(&[start, &bytes].concat()));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let good = memory().encode();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(Memory::decode(&bad).is_err(), "bit {bit} of byte {at}");
        }
        assert!(Memory::decode(&good[..at]).is_err(), "cut to {at} bytes");
    }
    assert!(Memory::decode(&[good, vec![0]].concat()).is_err());
}

// --- reading and writing ----------------------------------------------------------------------

#[test]
fn what_was_written_is_loaded_and_nothing_else_is_left() {
    let directory = Directory::new();
    let path = directory.file();
    assert!(state::load(&path).unwrap().is_none());
    for saved in [1, 2, 3] {
        let memory = Memory { saved, ..memory() };
        state::write(&path, &memory).unwrap();
        assert_eq!(state::load(&path).unwrap(), Some(Ok(memory)));
    }
    assert_eq!(directory.names(), ["node.state"]);
}

#[test]
fn a_write_that_fails_leaves_no_trace() {
    let directory = Directory::new();
    let missing = directory.0.join("no such directory").join("node.state");
    assert_eq!(state::write(&missing, &memory()).unwrap_err().kind(), ErrorKind::NotFound);
    // Its last step fails: a file takes the place of no directory.
    let occupied = directory.file();
    fs::create_dir(&occupied).unwrap();
    assert!(state::write(&occupied, &memory()).is_err());
    assert_eq!(directory.names(), ["node.state"]);
}

#[test]
fn a_directory_is_an_error_and_a_huge_file_is_not_read_whole() {
    let directory = Directory::new();
    assert!(state::load(&directory.0).is_err());
    let path = directory.file();
    let mut file = File::create(&path).unwrap();
    file.write_all(b"kadepy state 1\n").unwrap();
    // Who tried to hold it all would not get far.
    file.set_len(1 << 40).or_else(|_| file.set_len(1 << 30)).unwrap();
    assert_eq!(state::load(&path).unwrap(), Some(Err(Invalid::TooLong)));
}

#[test]
fn what_is_set_aside_replaces_what_was_before() {
    let directory = Directory::new();
    let path = directory.file();
    for content in ["first", "second"] {
        fs::write(&path, content).unwrap();
        let aside = state::set_aside(&path).unwrap();
        assert_eq!(fs::read_to_string(aside).unwrap(), content);
        assert_eq!(directory.names(), ["node.state.bad"]);
    }
}

#[cfg(unix)]
mod on_unix {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_the_owner_can_read_it_though_the_one_before_was_open_to_all() {
        let directory = Directory::new();
        let path = directory.file();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        state::write(&path, &memory()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn through_a_link_the_file_that_it_names_is_replaced() {
        let directory = Directory::new();
        let elsewhere = Directory::new();
        let link = directory.file();
        symlink(elsewhere.file(), &link).unwrap();
        fs::write(elsewhere.file(), "no state file").unwrap();
        assert_eq!(state::set_aside(&link).unwrap().file_name().unwrap(), "node.state.bad");
        fs::write(elsewhere.file(), "").unwrap();
        state::write(&link, &memory()).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(state::load(&elsewhere.file()).unwrap(), Some(Ok(memory())));
        assert_eq!(elsewhere.names(), ["node.state", "node.state.bad"]);
        assert_eq!(directory.names(), ["node.state"]);
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let directory = Directory::new();
        let path = directory.file();
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(state::load(&path).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_reader_finds_a_whole_file_whenever_it_looks() {
        let directory = Directory::new();
        let path = directory.file();
        state::write(&path, &memory()).unwrap();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| (0..200).for_each(|_| state::write(&path, &memory()).unwrap()))
                })
                .collect();
            while !writers.iter().all(|writer| writer.is_finished()) {
                assert_eq!(state::load(&path).unwrap(), Some(Ok(memory())));
            }
        });
        assert_eq!(directory.names(), ["node.state"]);
    }
}

// --- nodes ------------------------------------------------------------------------------------

fn node(id: Option<NodeId>) -> Node {
    let address = "127.0.0.1:0".parse().expect("an address");
    Node::start(address, id, &Network::Public, Config::default())
        .expect("loopback has a port to give")
}

fn join(node: &Node, seed: &Node) {
    let pending =
        node.join(vec![seed.address().into()], false, Some(PATIENCE)).expect("there is room");
    let Ok(Some(Reply::Done(Outcome::Joined { contacts, .. }))) = pending.wait(PATIENCE) else {
        panic!("no join");
    };
    assert!(contacts > 0);
}

fn loaded(path: &Path) -> Memory {
    state::load(path).expect("it can be read").expect("a file").expect("a state file")
}

fn wait_until(what: impl Fn() -> bool) {
    const PAUSE: Duration = Duration::from_millis(5);
    for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
        if what() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("what the test waits for did not happen");
}

#[test]
fn what_a_node_has_joined_is_saved_long_before_the_interval_is_over() {
    let directory = Directory::new();
    let (first, other) = (node(None), node(None));
    first.keep_state(directory.file(), SAVE_INTERVAL).unwrap();
    join(&first, &other);
    // Nothing is there before the first save.
    wait_until(
        || matches!(state::load(&directory.file()), Ok(Some(Ok(memory))) if memory.contacts.len() == 1),
    );
}

#[test]
fn a_restarted_node_is_the_same_and_joins_without_a_seed() {
    let directory = Directory::new();
    let others = [node(None), node(None), node(None)];
    let first = node(None);
    first.keep_state(directory.file(), SAVE_INTERVAL).unwrap();
    others.iter().for_each(|other| join(&first, other));
    first.close();

    let Memory { id, contacts, .. } = loaded(&directory.file());
    assert_eq!((id, contacts.len()), (first.id(), 3));
    let again = node(Some(id));
    again.recall(contacts).unwrap();
    // At once: it waits until somebody has answered.
    let pending = again.find_node(others[2].id(), Some(PATIENCE)).unwrap();
    let Ok(Some(Reply::Done(Outcome::Nodes(nodes)))) = pending.wait(PATIENCE) else {
        panic!("no nodes");
    };
    assert!(!nodes.is_empty());
}

#[test]
fn a_node_saves_by_itself_when_it_is_closed_and_when_it_is_asked() {
    let directory = Directory::new();
    let (node, other) = (node(None), node(None));
    let path = directory.file();
    assert!(matches!(node.save(), Err(SaveError::NoFile)));
    node.keep_state(path.clone(), Duration::from_millis(1)).unwrap();
    assert!(node.keep_state(path.clone(), SAVE_INTERVAL).is_err(), "a second time");
    wait_until(|| path.exists());
    assert_eq!(loaded(&path).contacts, []);
    join(&node, &other);
    wait_until(|| loaded(&path).contacts.len() == 1);
    fs::remove_file(&path).unwrap();
    node.save().unwrap();
    assert_eq!(loaded(&path).id, node.id());
    node.close();
    let closed = loaded(&path);
    assert_eq!(closed.contacts.len(), 1);
    assert!(closed.saved > 1_700_000_000);
    assert!(matches!(node.save(), Err(SaveError::Command(CommandError::Closed))));
    assert_eq!(directory.names(), ["node.state"]);
}

#[test]
fn a_node_that_reaches_nobody_keeps_the_contacts_of_the_last_run() {
    let directory = Directory::new();
    let dead = node(None);
    dead.close();
    let remembered = vec![Contact { id: dead.id(), endpoint: dead.address().into() }];
    let lonely = node(None);
    lonely.keep_state(directory.file(), SAVE_INTERVAL).unwrap();
    lonely.recall(remembered.clone()).unwrap();
    lonely.close();
    assert_eq!(loaded(&directory.file()).contacts, remembered);
}

#[test]
fn a_failure_to_save_is_told_once_and_once_more_after_a_success() {
    let directory = Directory::new();
    let path = directory.file();
    // A file takes the place of no directory.
    fs::create_dir(&path).unwrap();
    let node = node(None);
    let (sender, lines) = bounded(100);
    node.log_to(sender);
    node.keep_state(path.clone(), Duration::from_millis(1)).unwrap();
    let Line { level, text } = lines.recv().unwrap();
    let port = node.address().port();
    let expected = format!("node on port {port}: cannot write the state file {}: ", path.display());
    assert_eq!(level, Level::Warn);
    assert!(text.starts_with(&expected), "{text}");
    assert!(matches!(node.save(), Err(SaveError::File { .. })));
    fs::remove_dir(&path).unwrap();
    wait_until(|| path.exists());
    assert!(lines.is_empty(), "it is told more than once");
    wait_until(|| fs::remove_file(&path).is_ok() && fs::create_dir(&path).is_ok());
    lines.recv().unwrap();
    node.close();
    assert_eq!(directory.names(), ["node.state"]);
}

#[test]
fn that_the_last_save_fails_is_told_before_close_returns() {
    let directory = Directory::new();
    let node = node(None);
    let (sender, lines) = bounded(100);
    node.log_to(sender);
    node.keep_state(directory.0.join("no such directory").join("node.state"), SAVE_INTERVAL)
        .unwrap();
    node.close();
    assert!(lines.try_recv().is_ok());
}

#[test]
fn a_hundred_nodes_save_when_they_are_closed_together() {
    let directory = Directory::new();
    let nodes: Vec<Node> = (0..100).map(|_| node(None)).collect();
    let path = |at: usize| directory.0.join(at.to_string());
    for (at, node) in nodes.iter().enumerate() {
        node.keep_state(path(at), SAVE_INTERVAL).unwrap();
    }
    Node::close_all(nodes.iter());
    for (at, node) in nodes.iter().enumerate() {
        let mut magic = [0; 14];
        File::open(path(at)).unwrap().read_exact(&mut magic).unwrap();
        assert_eq!((&magic, loaded(&path(at)).id), (b"kadepy state 1", node.id()));
    }
}
