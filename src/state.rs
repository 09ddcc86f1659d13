//! The state file: a node's id and good contacts, from one run to the next. When it is written, and
//! what becomes of its content, is the node's affair.
//!
//! The format is no wire format: only KadePy reads it. Numbers are big-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 15 | `kadepy state 1` and a line feed; the number is the version of the format |
//! | 8 | when it was saved, in seconds since 1970; for people, for nothing depends on it |
//! | 32 | the node's id |
//! | 52 each | up to 512 contacts, the one to ask first first: id (32), IPv6 address (16; IPv4 as `::ffff:a.b.c.d`), interface number of a link-local address (2; else 0), port (2) |
//! | 32 | SHA-256 of all before it |

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::id::{ID_LEN, NodeId};
use crate::wire::message::{Contact, Endpoint};

/// The most contacts in a file: more than a routing table lists in a network of a million nodes.
pub const CONTACTS_MAX: usize = 512;

const VERSION: u32 = 1;
const MAGIC: &[u8] = b"kadepy state 1\n";
const CONTACT_LEN: usize = ID_LEN + 16 + 2 + 2;
const CHECKSUM_LEN: usize = 32;
const LEN_MAX: usize = MAGIC.len() + 8 + ID_LEN + CONTACTS_MAX * CONTACT_LEN + CHECKSUM_LEN;

/// What a node remembers from one run to the next.
///
/// ```
/// use kadepy::NodeId;
/// use kadepy::state::Memory;
///
/// let memory = Memory { saved: 1_750_000_000, id: NodeId([1; 32]), contacts: vec![] };
/// let mut bytes = memory.encode();
/// assert_eq!(Memory::decode(&bytes), Ok(memory));
/// bytes[20] ^= 1;
/// assert!(Memory::decode(&bytes).is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// When it was saved, in seconds since 1970, by a clock that may be wrong.
    pub saved: u64,
    /// The node's id.
    pub id: NodeId,
    /// The contacts to join through, the one to ask first first.
    pub contacts: Vec<Contact>,
}

/// Why bytes are not what a node remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    /// They do not begin as a state file does.
    #[error("it is not a state file of KadePy")]
    Foreign,
    /// A later KadePy wrote them.
    #[error("it has version {0} of the format, and this KadePy reads version {own}", own = VERSION)]
    LaterVersion(u32),
    /// They are more than a state file can hold.
    #[error("it is longer than the {max} bytes that a state file has at most", max = LEN_MAX)]
    TooLong,
    /// They were changed or cut since they were written.
    #[error("it is damaged: its checksum does not match")]
    Damaged,
}

impl Memory {
    /// What is remembered now.
    pub fn new(id: NodeId, contacts: Vec<Contact>) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "people may want to know; nothing depends on it"
        )]
        let saved = SystemTime::now().duration_since(UNIX_EPOCH);
        Self { saved: saved.map_or(0, |since| since.as_secs()), id, contacts }
    }

    /// As bytes of a file; contacts above [`CONTACTS_MAX`] are left out.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.saved.to_be_bytes());
        bytes.extend(self.id.0);
        for contact in
            self.contacts.iter().filter(|contact| is_plausible(contact)).take(CONTACTS_MAX)
        {
            let scope = contact.endpoint.scope() as u16;
            bytes.extend(contact.id.0);
            bytes.extend(contact.endpoint.ip_bytes());
            bytes.extend(scope.to_be_bytes());
            bytes.extend(contact.endpoint.port().to_be_bytes());
        }
        bytes.extend(Sha256::digest(&bytes));
        bytes
    }

    /// From the bytes of a file.
    ///
    /// # Errors
    ///
    /// [`Invalid`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(later_version(bytes).map_or(Invalid::Foreign, Invalid::LaterVersion));
        };
        if bytes.len() > LEN_MAX {
            return Err(Invalid::TooLong);
        }
        let (body, checksum) = rest.split_last_chunk::<CHECKSUM_LEN>().ok_or(Invalid::Damaged)?;
        if Sha256::digest(&bytes[..MAGIC.len() + body.len()]).as_slice() != checksum {
            return Err(Invalid::Damaged);
        }
        let (saved, body) = body.split_first_chunk().ok_or(Invalid::Damaged)?;
        let (id, body) = body.split_first_chunk().ok_or(Invalid::Damaged)?;
        let contacts: Vec<Contact> = body.chunks(CONTACT_LEN).map_while(contact).collect();
        let memory = Self { saved: u64::from_be_bytes(*saved), id: NodeId(*id), contacts };
        let is_whole = memory.contacts.len() * CONTACT_LEN == body.len();
        if is_whole && is_node(&memory.id) { Ok(memory) } else { Err(Invalid::Damaged) }
    }
}

/// What the file at `path` holds; `None` where there is none.
///
/// # Errors
///
/// The system's, where it cannot be read; `InvalidInput` for a device or a pipe. What is no state
/// file is no such error.
pub fn load(path: &Path) -> io::Result<Option<Result<Memory, Invalid>>> {
    let kind = match fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // To read a pipe may take for ever. For a directory, reading gives the system's own error.
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LEN_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(Memory::decode(&bytes)))
}

/// Puts `memory` into the file at `path`, as a whole or not at all.
///
/// On Unix only the owner may read it. Where `path` is a symbolic link, the file that it names is
/// replaced.
///
/// # Errors
///
/// The system's; then the file is as it was.
pub fn write(path: &Path, memory: &Memory) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let path = target(path)?;
    // No other process and no other node of this one has this name.
    let serial = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let unfinished = beside(&path, &format!(".{}-{serial}.tmp", std::process::id()))?;
    // A process of this number that was killed may have left it.
    let _ = fs::remove_file(&unfinished);
    let replaced = create(&unfinished)
        .and_then(|mut file| {
            file.write_all(&memory.encode())?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&unfinished, &path));
    if replaced.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    replaced?;
    // The new file is in its place. Where a directory cannot be synced, which some filesystems
    // refuse, a power cut may bring the old one back.
    #[cfg(unix)]
    let _ = path.parent().map(|directory| File::open(directory)?.sync_all());
    Ok(())
}

/// Moves the file at `path` to the same name with `.bad` behind it, in the place of an older such.
/// Gives the new path.
///
/// # Errors
///
/// The system's.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let path = target(path)?;
    let aside = beside(&path, ".bad")?;
    fs::rename(&path, &aside)?;
    Ok(aside)
}

/// The absolute path of the file that `path` names, behind all links, also where there is none yet.
fn target(path: &Path) -> io::Result<PathBuf> {
    /// As many as Linux follows.
    const LINKS_MAX: usize = 40;
    let mut path = std::path::absolute(path)?;
    for _ in 0..LINKS_MAX {
        match fs::read_link(&path) {
            // Relative to the directory of the link, which a link's absolute target replaces.
            Ok(named) => path = path.parent().unwrap_or(Path::new("/")).join(named),
            Err(_) => break,
        }
    }
    Ok(path)
}

/// The path of a file in the same directory, with more behind its name.
fn beside(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the path names no file"));
    };
    let mut name = name.to_owned();
    name.push(suffix);
    Ok(path.with_file_name(name))
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// The version of a state file that is not of ours but of a later one.
fn later_version(bytes: &[u8]) -> Option<u32> {
    const DIGITS_MAX: usize = 9;
    let rest = bytes.strip_prefix(b"kadepy state ")?;
    let end = rest.iter().take(DIGITS_MAX + 1).position(|&byte| byte == b'\n')?;
    let digits = rest[..end].iter().all(u8::is_ascii_digit).then_some(&rest[..end])?;
    let version = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (version > VERSION).then_some(version)
}

fn contact(bytes: &[u8]) -> Option<Contact> {
    let (id, bytes) = bytes.split_first_chunk()?;
    let (ip, bytes) = bytes.split_first_chunk::<16>()?;
    let (scope, bytes) = bytes.split_first_chunk()?;
    let port = u16::from_be_bytes(bytes.try_into().ok()?);
    let endpoint = Endpoint::new(*ip, port).with_scope(u16::from_be_bytes(*scope).into());
    let contact = Contact { id: NodeId(*id), endpoint };
    is_plausible(&contact).then_some(contact)
}

/// Whether it may be a contact at all, and the format has room for it.
fn is_plausible(contact: &Contact) -> bool {
    let fits = contact.endpoint.scope() <= u16::MAX.into();
    is_node(&contact.id) && contact.endpoint.is_sendable() && fits
}

fn is_node(id: &NodeId) -> bool {
    ![NodeId::ZERO, NodeId::MAX].contains(id)
}
