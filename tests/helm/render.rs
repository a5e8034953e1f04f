//! render.go, built and run: Helm's template engine, and nomad-pack's.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use consul_redis::lab::tools;
use serde::Deserialize;
use serde_json::Value;

/// What became of one set of values.
#[derive(Deserialize)]
pub struct Rendered {
    /// Each template's text, unless there is an error.
    pub files: Option<BTreeMap<String, String>>,
    /// Why there are none; else empty.
    pub error: String,
}

/// The program, in a directory of its own.
pub struct Renderer {
    program: PathBuf,
    _dir: tempfile::TempDir,
}

impl Renderer {
    /// Builds it.
    pub fn build() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let go = tools::go().unwrap_or_else(|error| panic!("{error}"));
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("render");
        let mut build = Command::new(&go.path);
        if let Some(path) = &go.library_path {
            build.env("LD_LIBRARY_PATH", path);
        }
        build.args(["build", "-ldflags=-s -w", "-o"]).arg(&program).arg("tests/helm/render.go");
        // Nothing but the standard library, from nowhere but the disk.
        build.envs([("GO111MODULE", "off"), ("GOPROXY", "off"), ("CGO_ENABLED", "0")]);
        build.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go"));
        let built = build.env("GOPATH", dir.path()).current_dir(root).output().expect("go");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Self { program, _dir: dir }
    }

    /// Does the work that render.go describes.
    pub fn run(&self, work: &Value) -> Vec<Rendered> {
        let mut run = Command::new(&self.program);
        run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = run.spawn().expect("it runs");
        let work = serde_json::to_vec(work).expect("JSON");
        child.stdin.take().expect("a pipe").write_all(&work).expect("it reads");
        let done = child.wait_with_output().expect("it ends");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).expect("JSON")
    }
}
