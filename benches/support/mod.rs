//! What every benchmark begins with.

use std::path::PathBuf;

/// Runs a benchmark on two threads, as many as its machine is meant to have.
pub fn run(benchmark: impl Future<Output = ()>) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(benchmark);
}

/// The consul-redis that is measured: `CONSUL_REDIS_BIN`, to compare another build of it on the same machine, or the
/// one that was built with the benchmark.
pub fn program() -> PathBuf {
    let other = std::env::var_os("CONSUL_REDIS_BIN");
    other.unwrap_or_else(|| env!("CARGO_BIN_EXE_consul-redis").into()).into()
}
