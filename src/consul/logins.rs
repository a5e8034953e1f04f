//! All logins of one process: who asks for the same one gets the same one, also after the config was read again.

use std::fmt;
use std::sync::{Arc, Weak};

use tokio::sync::watch;

use super::endpoint::ConsulEndpoint;
use super::login::{ConsulLogin, ConsulLoginSettings, LoginProcess, SharedLogin};

/// All logins of one process. Clones are one.
#[derive(Clone, Default)]
pub struct ConsulLogins {
    process: LoginProcess,
    known: Arc<watch::Sender<Vec<KnownConsulLogin>>>,
}

struct KnownConsulLogin {
    endpoint: ConsulEndpoint,
    settings: ConsulLoginSettings,
    shared: Weak<SharedLogin>,
}

impl ConsulLogins {
    /// The login at this endpoint, which has none itself: the one that is in use, where one is.
    pub fn login(&self, endpoint: &ConsulEndpoint, settings: ConsulLoginSettings) -> ConsulLogin {
        let mut found = None;
        self.known.send_if_modified(|known| {
            known.retain(|login| login.shared.strong_count() > 0);
            let is_same = |login: &&KnownConsulLogin| {
                login.endpoint == *endpoint && login.settings == settings
            };
            found = known.iter().filter(is_same).find_map(|login| login.shared.upgrade());
            if found.is_none() {
                let shared = Arc::new(SharedLogin::default());
                let (endpoint, settings) = (endpoint.clone(), settings.clone());
                known.push(KnownConsulLogin {
                    endpoint,
                    settings,
                    shared: Arc::downgrade(&shared),
                });
                found = Some(shared);
            }
            false
        });
        ConsulLogin::new(settings, found.unwrap_or_default(), self.process.clone())
    }

    /// Logs out every token that is held: the process ends.
    pub async fn log_out(&self) {
        self.process.log_out().await;
    }
}

impl fmt::Debug for ConsulLogins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} logins", self.known.borrow().len())
    }
}
