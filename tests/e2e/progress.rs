//! What long commands show on a terminal while they wait, and nowhere else.

use std::fs::File;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use consul_redis::lab::world::WorldSpec;
use nix::pty::{Winsize, openpty};
use tokio::sync::watch;

use crate::support::{agents, program, run, text, until_in_sync, until_writer, world};

/// A terminal, and all that was written to it so far.
struct Terminal {
    side: File,
    shown: watch::Receiver<String>,
}

impl Terminal {
    fn open() -> Self {
        let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let (mut ours, side) = (File::from(pair.master), File::from(pair.slave));
        let (show, shown) = watch::channel(String::new());
        // A thread, for a read waits; it ends with the terminal.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = ours.read(&mut bytes) {
                show.send_modify(|text| text.push_str(&String::from_utf8_lossy(&bytes[..count])));
            }
        });
        Self { side, shown }
    }

    fn stderr(&self) -> Stdio {
        Stdio::from(self.side.try_clone().unwrap())
    }

    async fn until(&self, wanted: &str) {
        until(wanted, Duration::from_secs(20), || async {
            let shown = self.shown.borrow().clone();
            if shown.contains(wanted) { Ok(()) } else { Err(LabError(format!("{shown:?}"))) }
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_terminal_shows_what_is_waited_for_and_for_how_long() {
    let world = world(WorldSpec::default()).await;
    let terminal = Terminal::open();
    let command = |args: &[&str]| {
        let mut command = Command::new(program());
        command.args(args).envs(world.agent_env()).env("TERM", "xterm").env("NO_COLOR", "1");
        command.stdout(Stdio::piped()).stderr(terminal.stderr());
        command
    };
    let waiting = command(&["wait", "redis", "--replicas", "2"]).spawn().unwrap();
    terminal.until("redis: nothing was ever published (").await;
    terminal.until("(2s)").await;
    let _agents = agents(&world, 2, &[]);
    let ended = tokio::task::spawn_blocking(move || waiting.wait_with_output().unwrap());
    let ended = ended.await.unwrap();
    let said = String::from_utf8(ended.stdout).unwrap();
    assert_eq!((ended.status.code(), said.lines().count()), (Some(0), 2), "{said}");
    // The line is gone in the end, and had no colour.
    terminal.until("\u{1b}[2K").await;
    assert!(!terminal.shown.borrow().contains("\u{1b}[3"), "{:?}", terminal.shown.borrow());

    let first = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    world.calm().await.unwrap();
    let mut moving = command(&["switchover", "redis", "--yes"]);
    let moved = tokio::task::spawn_blocking(move || moving.output().unwrap()).await.unwrap();
    let said = String::from_utf8(moved.stdout).unwrap();
    assert!(said.contains("done: moved from "), "{said}");
    assert!(!said.contains('\u{1b}'), "stdout is no terminal: {said:?}");
    terminal.until("waiting for a majority of the Sentinels to follow").await;

    // A file that keeps the output has nothing of it.
    until_writer(&world, "redis", 20, Some(&first)).await;
    let piped = run(&world, &["wait", "redis", "--replicas", "9", "--timeout", "1500ms"], &[]);
    let said = text(&piped);
    assert!(
        said.starts_with("redis: not within 1500 ms: ") && said.lines().count() <= 2,
        "{said:?}"
    );
    let doctor = run(&world, &["doctor", "redis"], &[]);
    assert_eq!(String::from_utf8_lossy(&doctor.stderr), "");
}
