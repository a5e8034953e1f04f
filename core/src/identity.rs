//! Who is who: servers by their ids and addresses, and electorates by the Sentinels that a record holds.

pub mod address;
pub mod adopt;
pub mod electorate;
pub mod ids;
pub mod mark;
