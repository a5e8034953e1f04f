//! Redis' protocol, as far as this needs it: it shares nothing with the product's client.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status or a bulk string.
    Text(String),
    /// A refusal.
    Error(String),
    /// A number.
    Int(i64),
    /// No value.
    Nil,
    /// Several answers.
    List(Vec<Reply>),
}

impl Reply {
    /// Its text.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The pairs of a list.
    pub fn field(&self, name: &str) -> Option<&str> {
        let Self::List(all) = self else { return None };
        all.chunks(2).find(|pair| pair[0].text() == Some(name))?.get(1)?.text()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum Fail {
    /// Nothing was sent.
    Unsent(String),
    /// It was sent, and what became of it is not known.
    Unknown(String),
}

impl Fail {
    /// Its words.
    pub fn text(&self) -> &str {
        let (Self::Unsent(text) | Self::Unknown(text)) = self;
        text
    }
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    stream: BufReader<TcpStream>,
    patience: Duration,
}

impl Conn {
    /// Connects and logs in.
    pub async fn open(
        at: SocketAddr,
        password: Option<&str>,
        patience: Duration,
    ) -> Result<Self, Fail> {
        let connected = timeout(patience, TcpStream::connect(at)).await;
        let stream = connected
            .map_err(|_| Fail::Unsent("no connection in time".to_owned()))?
            .map_err(|error| Fail::Unsent(error.to_string()))?;
        stream.set_nodelay(true).map_err(|error| Fail::Unsent(error.to_string()))?;
        let mut conn = Self { stream: BufReader::new(stream), patience };
        if let Some(password) = password {
            match conn.call(&["AUTH", password]).await {
                Ok(Reply::Error(error)) => return Err(Fail::Unsent(error)),
                Ok(_) => {}
                Err(error) => return Err(Fail::Unsent(error.text().to_owned())),
            }
        }
        Ok(conn)
    }

    /// One command.
    pub async fn call(&mut self, command: &[&str]) -> Result<Reply, Fail> {
        let mut all =
            self.calls(&[command.iter().map(|word| (*word).to_owned()).collect()]).await?;
        all.pop().ok_or_else(|| Fail::Unknown("no answer".to_owned()))
    }

    /// Several commands at once.
    pub async fn calls(&mut self, commands: &[Vec<String>]) -> Result<Vec<Reply>, Fail> {
        let mut sent = String::new();
        for command in commands {
            sent.push_str(&format!("*{}\r\n", command.len()));
            command
                .iter()
                .for_each(|word| sent.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        }
        let asked = async {
            self.stream.get_mut().write_all(sent.as_bytes()).await?;
            let mut replies = Vec::new();
            for _ in commands {
                replies.push(read(&mut self.stream).await?);
            }
            Ok::<_, std::io::Error>(replies)
        };
        match timeout(self.patience, asked).await {
            Ok(Ok(replies)) => Ok(replies),
            Ok(Err(error)) => Err(Fail::Unknown(error.to_string())),
            Err(_) => Err(Fail::Unknown("no answer in time".to_owned())),
        }
    }
}

type Reading<'a> = Pin<Box<dyn Future<Output = std::io::Result<Reply>> + Send + 'a>>;

fn read(stream: &mut BufReader<TcpStream>) -> Reading<'_> {
    Box::pin(async move {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::Error::other("closed"));
        }
        let line = line.trim_end();
        let wrong = || std::io::Error::other(format!("no RESP: {line}"));
        let (kind, rest) = line.split_at_checked(1).ok_or_else(wrong)?;
        let number = || rest.parse::<i64>().map_err(|_| wrong());
        Ok(match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(number()?),
            "$" => match usize::try_from(number()?) {
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    stream.read_exact(&mut bytes).await?;
                    Reply::Text(String::from_utf8_lossy(&bytes[..length]).into_owned())
                }
                Err(_) => Reply::Nil,
            },
            "*" => {
                let mut all = Vec::new();
                for _ in 0..number()?.max(0) {
                    all.push(read(stream).await?);
                }
                Reply::List(all)
            }
            _ => return Err(wrong()),
        })
    })
}

/// One command on a connection of its own.
pub async fn ask(
    at: SocketAddr,
    password: Option<&str>,
    patience: Duration,
    command: &[&str],
) -> Result<Reply, Fail> {
    Conn::open(at, password, patience).await?.call(command).await
}
