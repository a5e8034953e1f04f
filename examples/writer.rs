//! Prints the writer of a group, and every change of it.
//!
//! ```sh
//! CONSUL_HTTP_ADDR=127.0.0.1:8500 cargo run --example writer redis
//! cargo run --example writer redis-primary.service.consul. 127.0.0.1:8600    # by DNS alone
//! ```

use std::error::Error;

use consul_redis::client::Writers;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "redis".to_owned());
    let writers = match args.next() {
        Some(server) => Writers::by_dns(server.parse()?, &name)?,
        None => Writers::from_env()?.group(&name).start()?,
    };
    // A client that asks for what is not there is told so, and does not wait for ever.
    writers.writer().await?;
    let mut changes = writers.watch();
    loop {
        match changes.next().await {
            Some(writer) => match writer.generation {
                Some(generation) => println!("writer {writer}, generation {generation}"),
                None => println!("writer {writer}"),
            },
            None => println!("no writer: {}", writers.seen().map(|s| s.why).unwrap_or_default()),
        }
    }
}
