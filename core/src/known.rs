//! What one agent knows of a group: what it read a moment ago, and since when it has been so.

pub mod clocks;
pub mod conditions;
pub mod memory;
pub mod observed;
pub mod view;
