//! `consul-redis demo`: what a newcomer sees first.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use consul_redis::lab::LabError;
use consul_redis::lab::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{program, text};

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("demo").args(args);
    command
}

/// The milliseconds of the last step of this name: the failover's.
fn step(output: &str, name: &str) -> u64 {
    let line = output.lines().rfind(|line| line.contains(&format!(" ms  {name} ")));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{output}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn assert_timeline(output: &Output) {
    let shown = text(output);
    assert!(output.status.success(), "{shown}");
    let names = ["killed", "down agreed", "promoted", "published", "first write"];
    let times: Vec<u64> = names.iter().map(|name| step(&shown, name)).collect();
    assert_eq!(times[0], 0, "{shown}");
    // They are told to look at once, and wait for 200 ms.
    assert!(times[1] >= 100, "Sentinels need a moment to agree\n{shown}");
    for pair in [(1, 2), (2, 4), (3, 4)] {
        // Two observers see two events that are a moment apart.
        assert!(times[pair.0] <= times[pair.1] + 50, "{shown}");
    }
    assert!(shown.contains("redis-primary.service.consul"), "{shown}");
    assert!(shown.contains("and did not move"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "plain when piped\n{shown}");
}

#[tokio::test]
async fn it_shows_the_switch_and_ends_what_it_started() {
    assert_timeline(&demo(&[]).output().unwrap());
}

#[tokio::test]
async fn from_scratch_it_shows_the_first_primary_too() {
    let output = demo(&["--from-scratch"]).output().unwrap();
    assert_timeline(&output);
    let shown = text(&output);
    for line in ["a primary by itself, 0 keys", "monitors 0 groups", "no Sentinel knew of one"] {
        assert!(shown.contains(line), "no `{line}` in\n{shown}");
    }
    let times = ["confirmed", "in sync", "at rest"].map(|name| step(&shown, name));
    assert!(times.is_sorted(), "{shown}");
}

#[tokio::test]
async fn what_it_keeps_goes_on_and_its_last_command_ends_it() {
    let output = demo(&["--keep"]).output().unwrap();
    assert_timeline(&output);
    let shown = text(&output);
    let line = |start: &str| {
        let found = shown.lines().map(str::trim).find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("no {start} in\n{shown}")).to_owned()
    };
    let status = format!("{}; {} status", line("export "), program().display());
    let status = Command::new("sh").args(["-c", &status]).output().unwrap();
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
    let end = shown.lines().map(str::trim).rfind(|line| line.starts_with("kill -9 ")).unwrap();
    let dir = end.rsplit(' ').next().unwrap();
    assert!(std::fs::exists(dir).unwrap(), "{dir}");
    let ended = Command::new("sh").args(["-c", end]).output().unwrap();
    assert!(ended.status.success(), "{}", text(&ended));
    assert!(!std::fs::exists(dir).unwrap(), "{dir}");
    let first_id: i32 = end.split(' ').nth(2).unwrap().parse().unwrap();
    until("the servers are gone", Duration::from_secs(10), || async {
        // One whose parent has not waited for it is a zombie, and gone.
        let stat = std::fs::read_to_string(format!("/proc/{first_id}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") { Ok(()) } else { Err(LabError(stat)) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn ctrl_c_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let mut command = demo(&["--keep"]);
    command.env("TMPDIR", temporary.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let files = || std::fs::read_dir(temporary.path()).unwrap().count();
    until("it has begun", Duration::from_secs(20), || async {
        if files() > 0 { Ok(()) } else { Err(LabError::new("nothing yet")) }
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert_eq!(files(), 0);
}
