//! The bridge: `kadepy._core`. What is about the protocol stands below it in Rust, what is about
//! Python above it in Python.

mod callbacks;
mod classes;
mod config;
mod convert;
mod detach;
mod handle;
mod keys;
mod lines;
mod module;
mod node;
mod notices;
mod operation;
mod resolve;
mod simulation;
mod state;
mod v01;
