//! Real processes: Consul, Redis, Sentinels and agents of this build, and everything that goes wrong.

mod hammer;
mod support;
mod switch;
