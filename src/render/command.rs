//! A command with a deadline: its output goes to the log line by line, and when its time is up it is killed with
//! everything that it has started.

use std::collections::BTreeSet;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

/// How long what is left of the output is waited for, once the command has ended. What it leaves running in the
/// background may hold its end open for ever.
const OUTPUT_GRACE: Duration = Duration::from_millis(100);
/// Longest line that is logged, in bytes; the rest of it is left out.
const LINE_LEN_MAX: usize = 1_000;
/// Lines that are logged of each of a command's two outputs; the rest is read and left out.
const LINES_MAX: usize = 200;
/// What is read at once, in bytes.
const CHUNK_LEN: usize = 4_096;

/// A command that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It cannot be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program, as the template names it.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended otherwise than with exit code 0.
    #[error("{program} failed ({status})")]
    Failed {
        /// The program, as the template names it.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// Its time was up.
    #[error("{program} was killed after {} ms", deadline.as_millis())]
    Late {
        /// The program, as the template names it.
        program: String,
        /// The time that it had.
        deadline: Duration,
    },
}

/// A process group of a command: killed when this is dropped before its time.
struct ProcessGroup(Option<Pid>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            // Fails when the group is gone already.
            let _ = killpg(id, Signal::SIGKILL);
        }
    }
}

/// Runs a program with its arguments, and waits for its end. `label` begins each line of its output in the log; the
/// variables of our environment that are `withheld` are not in its own.
///
/// Dropping the future kills the command with everything that it has started.
///
/// # Errors
/// [`CommandError`] unless it ends with exit code 0 within `deadline`.
pub async fn run(
    argv: &[String],
    deadline: Duration,
    label: &str,
    withheld: &BTreeSet<String>,
) -> Result<(), CommandError> {
    run_with(argv, deadline, label, withheld, None).await
}

/// What a command is given.
#[derive(Debug, Clone, Default)]
pub struct CommandInput {
    /// What it reads on its stdin.
    pub stdin: Vec<u8>,
    /// Variables of its environment.
    pub env: Vec<(&'static str, String)>,
}

/// As [`run`], with something to read.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    argv: &[String],
    deadline: Duration,
    label: &str,
    withheld: &BTreeSet<String>,
    input: Option<CommandInput>,
) -> Result<(), CommandError> {
    let [program, args @ ..] = argv else { return Ok(()) };
    let program = || program.clone();
    let mut command = Command::new(program());
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.args(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    for name in withheld {
        command.env_remove(name);
    }
    let CommandInput { stdin, env } = input.unwrap_or_default();
    command.envs(env);
    let mut child =
        command.spawn().map_err(|source| CommandError::Start { program: program(), source })?;
    let _feeding = feed(&mut child, stdin);
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    let mut group = ProcessGroup(id.map(Pid::from_raw));
    let stdout = child.stdout.take().map(|output| logged(output, label.to_owned()));
    let stderr = child.stderr.take().map(|output| logged(output, label.to_owned()));
    let Ok(ended) = tokio::time::timeout(deadline, child.wait()).await else {
        drop(group);
        return Err(CommandError::Late { program: program(), deadline });
    };
    // What it was meant to leave running goes on.
    group.0 = None;
    let rest = async {
        for output in [stdout, stderr].into_iter().flatten() {
            let _ = output.await;
        }
    };
    let _ = tokio::time::timeout(OUTPUT_GRACE, rest).await;
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(CommandError::Failed { program: program(), status }),
        Err(source) => Err(CommandError::Start { program: program(), source }),
    }
}

/// Writes what it is to read, as far as it reads that.
fn feed(child: &mut Child, text: Vec<u8>) -> Option<AbortOnDropHandle<()>> {
    let mut stdin = child.stdin.take()?;
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        let _ = stdin.write_all(&text).await;
    })))
}

fn logged(output: impl AsyncRead + Unpin + Send + 'static, label: String) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(log_lines(output, label)))
}

async fn log_lines(mut output: impl AsyncRead + Unpin, label: String) {
    let mut lines = Lines::default();
    let mut chunk = [0; CHUNK_LEN];
    loop {
        let read = match output.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        for line in lines.add(chunk.get(..read).unwrap_or_default()) {
            info!("{label}: {line}");
        }
    }
    if let Some(line) = lines.last() {
        info!("{label}: {line}");
    }
}

/// Lines out of chunks, as many and as long as may be logged.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    count: usize,
}

impl Lines {
    fn add(&mut self, chunk: &[u8]) -> Vec<String> {
        let mut done = Vec::new();
        for byte in chunk {
            if *byte == b'\n' {
                done.extend(self.last());
            } else if self.line.len() < LINE_LEN_MAX {
                self.line.push(*byte);
            }
        }
        done
    }

    /// What has come since the last end of a line.
    fn last(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.is_empty() || self.count > LINES_MAX {
            return None;
        }
        self.count += 1;
        Some(if self.count > LINES_MAX { "(more is left out)".to_owned() } else { text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, deadline_ms: u64) -> Result<(), CommandError> {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        run(&argv, Duration::from_millis(deadline_ms), "test", &BTreeSet::new()).await
    }

    #[tokio::test]
    async fn a_command_does_not_get_what_is_withheld() {
        let argv = ["/bin/sh", "-c", "test -z \"$CARGO_MANIFEST_DIR\""].map(str::to_owned);
        let run = async |withheld: &BTreeSet<String>| {
            run(&argv, Duration::from_secs(5), "test", withheld).await.is_ok()
        };
        assert!(!run(&BTreeSet::new()).await);
        assert!(run(&BTreeSet::from(["CARGO_MANIFEST_DIR".to_owned()])).await);
    }

    #[tokio::test]
    async fn a_command_reads_what_it_is_given_or_leaves_it() {
        let run = async |script: &str, stdin: Vec<u8>| {
            let argv = ["/bin/sh", "-c", script].map(str::to_owned);
            let input = CommandInput { stdin, env: vec![("WANTED", "a text".to_owned())] };
            run_with(&argv, Duration::from_secs(20), "test", &BTreeSet::new(), Some(input)).await
        };
        run("test \"$(cat)\" = \"$WANTED\"", b"a text".to_vec()).await.unwrap();
        run("exit 0", vec![b'x'; 1_000_000]).await.unwrap();
    }

    #[tokio::test]
    async fn a_commands_end_is_reported() {
        assert!(sh("exit 0", 5_000).await.is_ok());
        let error = sh("exit 3", 5_000).await.unwrap_err().to_string();
        assert_eq!(error, "/bin/sh failed (exit status: 3)");
        let argv = ["/no/such/program".to_owned()];
        let none = run(&argv, Duration::from_secs(1), "test", &BTreeSet::new()).await;
        let error = none.unwrap_err().to_string();
        assert!(error.starts_with("cannot start /no/such/program: No such file"), "{error}");
    }

    #[tokio::test]
    async fn a_late_command_is_killed_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let script = format!("sleep 60 & echo $! > {}; wait", path.display());
        let error = sh(&script, 300).await.unwrap_err().to_string();
        assert_eq!(error, "/bin/sh was killed after 300 ms");
        let id: i32 = std::fs::read_to_string(path).unwrap().trim().parse().unwrap();
        // Killed; until its parent has waited for it, it may still be there as a zombie.
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        for _ in 0..200 {
            if gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("process {id} still runs");
    }

    #[tokio::test]
    async fn what_holds_the_output_open_is_not_waited_for() {
        let began = tokio::time::Instant::now();
        sh("sleep 5 & echo $!", 20_000).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }

    #[test]
    fn long_and_many_lines_are_cut() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b"one\r\ntw"), ["one"]);
        assert_eq!(lines.add(b"o\n\n"), ["two"]);
        let long = lines.add(format!("{}\n", "x".repeat(5_000)).as_bytes());
        assert_eq!(long[0].len(), LINE_LEN_MAX);
        let many = lines.add("x\n".repeat(1_000).as_bytes());
        assert_eq!(many.len(), LINES_MAX - 3 + 1);
        assert_eq!(many.last().map(String::as_str), Some("(more is left out)"));
        assert_eq!(lines.last(), None);
    }
}
