//! What every benchmark begins with.

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
