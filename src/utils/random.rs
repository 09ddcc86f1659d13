//! The system's secure random generator: ids come from it, and the seed of each engine.

use std::io;

/// `N` random bytes.
///
/// # Errors
///
/// The system's, where it has no randomness to give.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}
