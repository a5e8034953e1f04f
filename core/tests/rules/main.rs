//! The rules of publication, one by one: each test is named after the rule it holds.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod cut_off;
mod doctor;
mod emptied;
mod fencing;
mod first_primary;
mod forms;
mod ghosts;
mod inputs;
mod moved;
mod properties;
mod reinstating;
mod roster;
mod rule_1_votes;
mod rule_2_majority;
mod rule_3_promotion;
mod rule_4_withdrawal;
mod rule_5_conflict;
mod rule_6_lower_epoch;
mod scene;
mod situations;
mod telling;
