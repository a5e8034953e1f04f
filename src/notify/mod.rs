//! Telling targets outside what happens (`[[notify]]`): `body`, what is sent; `send`, one try; `target`, one target's queue
//! and its tries; `group`, what one group's loop has told and when.

pub mod body;
pub mod group;
pub mod send;
pub mod target;
