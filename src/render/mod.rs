//! Files rendered from the groups' state, and the commands that make programs take notice of them.
//!
//! What a template sees comes from the key `state` alone, by the same blocking query that agents use, so this works
//! beside an agent and without one. What is not known is never rendered: a file stays as it is until something
//! better is known.

pub mod clusters;
pub mod command;
pub mod context;
pub mod endpoint;
pub mod engine;
pub mod file;
mod pace;
pub mod task;
