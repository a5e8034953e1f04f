//! The login that Sentinels have for a group's instances.
//!
//! A Sentinel with a wrong one calls every instance down, so a login is tried on the instances before a Sentinel gets
//! it. Only a login that an agent gave, or that the operator has chosen for Sentinels (`auth_password_file`), is
//! renewed: a Sentinel's own is left as it is.

use secrecy::{ExposeSecret, SecretString};

use crate::config::SentinelAuth;
use crate::core::identity::address::Address;
use crate::core::published::projection::Layout;
use crate::redis_link::{Link, LinkError, LinkSettings};
use crate::rights::{Rights, may};
use crate::secret::{SecretError, SecretSource};

/// What Sentinel does with its login: watching, finding the others, and a failover (`docs/facts/sentinel.md` 3).
pub const SENTINEL_NEEDS: [&[&str]; 7] = [
    &["PING"],
    &["INFO"],
    &["PUBLISH", "__sentinel__:hello", "-"],
    &["SUBSCRIBE", "__sentinel__:hello"],
    &["SLAVEOF", "NO", "ONE"],
    &["CONFIG", "REWRITE"],
    &["CLIENT", "KILL", "TYPE", "normal"],
];

/// How the Sentinels of one group come by their login.
#[derive(Clone, PartialEq)]
pub struct Giving {
    /// Which login.
    pub auth: SentinelAuth,
    /// How the instances are reached to try it.
    pub way: LinkSettings,
    /// Where it is noted which Sentinels were given one.
    pub layout: Layout,
    /// This agent, as the note names it.
    pub by: String,
}

/// A login as it is now.
#[derive(Clone)]
pub struct Login {
    user: Option<String>,
    password: SecretString,
    named: String,
}

impl PartialEq for Login {
    fn eq(&self, other: &Self) -> bool {
        let same = self.password.expose_secret() == other.password.expose_secret();
        same && self.user == other.user
    }
}

/// What an instance makes of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// It lets Sentinel in, and do all that it does.
    Accepted,
    /// It lets Sentinel in, and refuses these commands.
    Lacks(String),
    /// It does not let Sentinel in, in its own words.
    Refused(String),
    /// It cannot be asked.
    Silent(String),
}

impl Login {
    /// The login as its file has it now; `None` where there is no password.
    ///
    /// # Errors
    /// [`SecretError`] when the password cannot be read.
    pub fn read(auth: &SentinelAuth) -> Result<Option<Self>, SecretError> {
        let Some(password) = auth.password.read()? else { return Ok(None) };
        let (user, password_from) = (auth.username.clone(), auth.password.clone());
        let named =
            LinkSettings { username: user.clone(), password: password_from, ..<_>::default() };
        Ok(Some(Self { user, password, named: named.login_named() }))
    }

    /// Which login it is, for people.
    pub fn named(&self) -> &str {
        &self.named
    }

    /// As options of `SENTINEL SET`. The user is sent in any case: an earlier one would stay otherwise.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let user = self.user.clone().unwrap_or_default();
        vec![("auth-user", user), ("auth-pass", self.password.expose_secret().to_owned())]
    }

    /// Why Sentinel cannot keep it; `None` when it can.
    pub fn not_storable(&self) -> Option<&'static str> {
        let password = self.password.expose_secret();
        not_storable(password).or_else(|| not_storable(self.user.as_deref().unwrap_or_default()))
    }

    /// Tries it on one instance.
    pub async fn try_on(&self, instance: &Address, way: &LinkSettings) -> Trial {
        let password = SecretSource::Value(self.password.clone());
        let settings = LinkSettings { username: self.user.clone(), password, ..way.clone() };
        let tried = async {
            let mut link = Link::open(instance, &settings).await?;
            may(&mut link, &SENTINEL_NEEDS).await
        };
        match tried.await {
            Ok(Rights::Refuses(refused)) => {
                let refused: Vec<String> = refused
                    .into_iter()
                    .filter(|(_, why)| is_forbidden(why))
                    .map(|(c, _)| c)
                    .collect();
                if refused.is_empty() { Trial::Accepted } else { Trial::Lacks(refused.join(", ")) }
            }
            // A failover is a transaction.
            Ok(Rights::Unknown(why)) if is_forbidden(&why) => Trial::Lacks("MULTI".to_owned()),
            Ok(Rights::Unknown(_)) => Trial::Accepted,
            // Sentinel passes over that, and so it is let in.
            Err(LinkError::Refused { words, .. }) if words.contains("without any password") => {
                Trial::Accepted
            }
            Err(LinkError::Refused { words, .. }) => Trial::Refused(words),
            Err(error) => Trial::Silent(error.to_string()),
        }
    }
}

/// Not allowed, rather than not there: Sentinel may have been told another name (`rename-command`).
fn is_forbidden(words: &str) -> bool {
    words.starts_with("NOPERM")
}

/// Why a word cannot be in a Sentinel's config file, which it writes without quotes and reads with them: it would not
/// start again (`docs/facts/sentinel.md` 16).
pub fn not_storable(word: &str) -> Option<&'static str> {
    let bad = |c: char| c.is_ascii_whitespace() || c.is_control() || c == '"' || c == '\'';
    word.chars().any(bad).then_some(
        "it has a space, a quote or a control character: Sentinel writes it into its config file without quotes, and \
         does not start again",
    )
}

#[cfg(test)]
mod tests {
    use super::not_storable;

    #[test]
    fn what_sentinel_cannot_read_again_is_known() {
        for bad in ["a b", "a\"b", "a'b", "a\tb", "\"ab\"", "a\u{1}b"] {
            assert!(not_storable(bad).is_some(), "{bad}");
        }
        for good in ["", "a\\b", "#x", "$x{y}", "a\u{e9}b"] {
            assert_eq!(not_storable(good), None, "{good}");
        }
    }
}
