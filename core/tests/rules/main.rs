//! The rules of publication, one by one: each test is named after the rule it holds.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod clocks;
mod cluster;
mod cluster_doctor;
mod cluster_duties;
mod cluster_names;
mod cluster_shown;
mod cluster_start;
mod cluster_zones;
mod data_loss;
mod doctor;
mod electorate;
mod fencing;
mod first_primary;
mod fleet;
mod forgotten;
mod forms;
mod haste;
mod hostile;
mod identity;
mod inputs;
mod instance_rows;
mod isolated;
mod mark;
#[path = "../../../tests/shared/mutations.rs"]
mod mutations;
mod names;
mod notices;
mod pause;
mod promote_again;
mod proof;
mod properties;
mod reconfigure;
mod relay;
mod relocated;
mod rule_1_votes;
mod rule_2_majority;
mod rule_3_promotion;
mod rule_4_withdrawal;
mod rule_5_conflict;
mod rule_6_lower_epoch;
mod scene;
mod situations;
mod stale_peers;
mod unreachable;
mod words;
