//! What Consul holds of a group: the record, the rows and keys that follow from it, and the next transaction.

pub mod agreed;
pub mod name_check;
pub mod notices;
pub mod pause;
pub mod projection;
pub mod publication;
pub mod record;
pub mod replicas;
pub mod sentinel_rows;
pub mod store;
pub mod words;
pub mod write;
