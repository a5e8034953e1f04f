//! For tests: what stands where Consul should be, and passes on less than it should, or late.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::client::Consul;
use super::endpoint::ConsulEndpoint;

/// A listener, and the client that takes it for Consul.
pub struct Proxy {
    pub consul: Consul,
    requests: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// `answer` is given the number of the request and its head; an empty answer closes the connection.
    pub async fn start(answer: impl Fn(usize, &str) -> String + Send + Sync + 'static) -> Self {
        Self::late(std::time::Duration::ZERO, answer).await
    }

    /// The same, each answer after `delay`.
    pub async fn late(
        delay: std::time::Duration,
        answer: impl Fn(usize, &str) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
        let counted = requests.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (counted, answer) = (counted.clone(), answer.clone());
                tokio::spawn(async move {
                    while let Some(head) = request(&mut stream).await {
                        let text = answer(counted.fetch_add(1, Ordering::Relaxed), &head);
                        tokio::time::sleep(delay).await;
                        if text.is_empty() || stream.write_all(text.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let endpoint = ConsulEndpoint {
            address: address.to_string().parse().unwrap(),
            ..ConsulEndpoint::default()
        };
        let consul = Consul::new(&endpoint).unwrap();
        Self { consul, requests, _task: AbortOnDropHandle::new(task) }
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Reads one request; its head, and none when there is none any more.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(0) => return None,
            Ok(_) => head.extend(byte),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("{error}"),
        }
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(head)
}
