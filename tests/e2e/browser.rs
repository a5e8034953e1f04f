//! A headless Chromium, driven as the WebDriver protocol has it.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use consul_redis::lab::LabError;
use consul_redis::lab::process::{Life, Process};
use consul_redis::lab::tools;
use consul_redis::lab::wait::until;
use serde_json::{Value, json};

/// How long the driver may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A window of a browser; it ends with its owner.
pub struct Browser {
    session: String,
    client: reqwest::Client,
    driver: Process,
}

impl Browser {
    /// Opens a window. What the browser writes goes below `dir`.
    pub async fn start(dir: &Path) -> Self {
        // Where fonts are, on a machine that has none too.
        let fonts = dir.join("fonts.conf");
        let text = format!(
            "<fontconfig><dir>/usr/share/fonts</dir><dir>{}/.tools/root/usr/share/fonts</dir>\
             <cachedir>{}/fonts</cachedir>\
             <match target=\"pattern\"><edit name=\"family\" mode=\"append_last\" binding=\"weak\">\
             <string>DejaVu Sans</string></edit></match>\
             <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>\
             </fontconfig>",
            env!("CARGO_MANIFEST_DIR"),
            dir.display()
        );
        std::fs::write(&fonts, text).unwrap();
        let env = [
            ("FONTCONFIG_FILE".to_owned(), fonts.display().to_string()),
            ("HOME".to_owned(), dir.display().to_string()),
        ];
        let (tool, program) = (tools::chromedriver().unwrap(), tools::chromium().unwrap());
        let args = ["--port=0".to_owned()];
        let driver = Process::start("chromedriver", &tool, &args, &env, dir, Life::WithUs).unwrap();
        let port = until("the driver listens", Duration::from_secs(30), || async {
            let log = driver.log();
            let said = log.split("started successfully on port ").nth(1);
            let port = said.and_then(|said| said.split('.').next()).map(str::to_owned);
            port.ok_or(LabError(log))
        })
        .await
        .unwrap();
        let client = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).build().unwrap();
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {
                "binary": program.path,
                "args": [
                    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                    "--hide-scrollbars", "--window-size=1200,900",
                    format!("--user-data-dir={}", dir.join("chromium").display()),
                ],
            },
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let url = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self { session: url.clone(), client, driver };
        let begun = browser.send(reqwest::Method::POST, "", wanted).await;
        browser.session = format!("{url}/{}", begun["sessionId"].as_str().unwrap());
        browser
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: Value) -> Value {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.session));
        if method == reqwest::Method::POST {
            request = request.json(&body);
        }
        let answer = request.send().await;
        let answer = answer.unwrap_or_else(|e| panic!("{path}: {e}\n{}", self.driver.log()));
        let ok = answer.status().is_success();
        let mut answer: Value = answer.json().await.unwrap();
        assert!(ok, "{path}: {answer}");
        answer["value"].take()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.send(reqwest::Method::POST, path, body).await
    }

    /// Goes to an address.
    pub async fn open(&self, url: &str) {
        self.post("/url", json!({"url": url})).await;
    }

    /// What a script returns.
    pub async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// A command of the browser's own protocol.
    pub async fn command(&self, name: &str, params: Value) -> Value {
        self.post("/goog/cdp/execute", json!({"cmd": name, "params": params})).await
    }

    /// Gives the window a size, in CSS pixels, and the colours that its user prefers.
    pub async fn look(&self, width: u32, height: u32, colours: &str) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.command("Emulation.setDeviceMetricsOverride", size).await;
        let features = json!([{"name": "prefers-color-scheme", "value": colours}]);
        self.command("Emulation.setEmulatedMedia", json!({"features": features})).await;
    }

    /// Presses the Tab key.
    pub async fn tab(&self) {
        let keys = json!([{"type": "keyDown", "value": "\u{e004}"}, {"type": "keyUp", "value": "\u{e004}"}]);
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": keys}]});
        self.post("/actions", actions).await;
    }

    /// What a screen reader says of the page: role and name of all that is not left out.
    pub async fn told(&self) -> Vec<(String, String)> {
        self.command("Accessibility.enable", json!({})).await;
        let tree = self.command("Accessibility.getFullAXTree", json!({})).await;
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let shown = nodes.filter(|node| node["ignored"] != true);
        shown.map(|node| (text(&node["role"]), text(&node["name"]))).collect()
    }

    /// What was written to the console since it was last asked for.
    pub async fn console(&self) -> Vec<String> {
        let found = self.post("/se/log", json!({"type": "browser"})).await;
        found.as_array().unwrap().iter().map(ToString::to_string).collect()
    }

    /// Every address that was asked for since this was last asked.
    pub async fn requested(&self) -> Vec<String> {
        let found = self.post("/se/log", json!({"type": "performance"})).await;
        let url = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let sent = message["message"]["method"] == "Network.requestWillBeSent";
            let url = &message["message"]["params"]["request"]["url"];
            sent.then(|| url.as_str().map(str::to_owned))?
        };
        found.as_array().unwrap().iter().filter_map(url).collect()
    }

    /// Waits until a script returns `true`; what `last` returns is shown when it does not.
    pub async fn until(&self, what: &str, script: &str, last: &str) {
        until(what, Duration::from_secs(40), || async {
            if self.run(script).await == json!(true) {
                return Ok(());
            }
            Err(LabError(self.run(last).await.to_string()))
        })
        .await
        .unwrap();
    }

    /// A picture of the page, as it is, down to `height_max` CSS pixels.
    pub async fn picture(&self, height_max: u32) -> Vec<u8> {
        let height =
            format!("return Math.min({height_max}, document.documentElement.scrollHeight)");
        let height = self.run(&height).await;
        let width = self.run("return document.documentElement.clientWidth").await;
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let wanted = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let taken = self.command("Page.captureScreenshot", wanted).await;
        let data = taken["data"].as_str().unwrap();
        base64::engine::general_purpose::STANDARD.decode(data).unwrap()
    }

    /// Closes the window.
    pub async fn close(self) {
        self.send(reqwest::Method::DELETE, "", Value::Null).await;
    }
}
