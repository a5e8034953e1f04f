//! The jobs in `nomad/`: what they say is true of the program, and what they start works.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod files;
mod job;
mod pack;
#[path = "../helm/render.rs"]
mod render;
mod run;
mod template;
mod terraform;
#[path = "../shared/writers.rs"]
mod writers;
