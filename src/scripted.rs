//! A server for unit tests that answers as it is told to, and closes connections when it is told to.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::core::identity::address::Address;
pub use crate::lab::many::bulk;

/// A server on loopback, until it is dropped.
pub struct Scripted {
    /// Where it listens.
    pub address: Address,
    _task: AbortOnDropHandle<()>,
}

impl Scripted {
    /// `answer` is given the number of the connection, from 0 on, and the bytes that came on it; `None` closes it.
    pub async fn start(
        answer: impl Fn(usize, &str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
        let answer = Arc::new(answer);
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            for connection in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut chunk = [0; 4_096];
                    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
                        let words = String::from_utf8_lossy(&chunk[..read]).into_owned();
                        let Some(answer) = answer(connection, &words) else { return };
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }));
        Self { address, _task: task }
    }
}
