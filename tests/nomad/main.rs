//! The jobs in `nomad/`: what they say is true of the program, and what they start works.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod files;
mod job;
mod run;
mod template;
#[path = "../shared/writers.rs"]
mod writers;
