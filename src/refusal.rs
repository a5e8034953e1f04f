//! Whether an instance that has answered this agent refuses connections since.
//!
//! Its process may have hung before it died, so that no connection was open to be closed with it: what counts is that its host
//! refuses, and goes on refusing. Since when is taken from the closed connection where there was one.

use std::io;

use crate::core::known::observed::Refusal;
use crate::core::policy::REFUSED_TWICE_MS;
use crate::core::time::Mono;
use crate::redis_link::LinkError;

/// What attempts to connect to one instance have come to since it last answered.
#[derive(Debug, Default)]
pub struct RefusalWatch {
    run_id: String,
    /// When it closed the connection, or first refused another one; `None` once anything else has happened since.
    since: Option<Mono>,
    /// When it first refused one after that.
    refused: Option<Mono>,
    told: bool,
}

impl RefusalWatch {
    /// It answers, as this run.
    pub fn answered(&mut self, run_id: &str) {
        *self = Self { run_id: run_id.to_owned(), ..Self::default() };
    }

    /// It has closed the connection.
    pub fn closed(&mut self, at: Mono) {
        self.since.get_or_insert(at);
    }

    /// An attempt has failed. What is to be told of it: that it refuses connections, or that something else is in the
    /// way since.
    pub fn failed(&mut self, error: &LinkError, at: Mono) -> Option<Option<Refusal>> {
        if self.run_id.is_empty() {
            return None;
        }
        match FailedBy::of(error) {
            FailedBy::Refused => {
                let since = *self.since.get_or_insert(at);
                let first = *self.refused.get_or_insert(at);
                if at - first < REFUSED_TWICE_MS {
                    return None;
                }
                self.told = true;
                let run_id = self.run_id.clone();
                Some(Some(Refusal { run_id, since, latest: at }))
            }
            // A process that ends closes what its listener had taken for it, too; it counts from there.
            FailedBy::Closed => {
                (self.since, self.refused) = (Some(at), None);
                self.take_back()
            }
            FailedBy::Other => {
                (self.since, self.refused) = (None, None);
                self.take_back()
            }
        }
    }

    fn take_back(&mut self) -> Option<Option<Refusal>> {
        std::mem::take(&mut self.told).then_some(None)
    }
}

/// What an attempt came to.
enum FailedBy {
    /// The host refuses the connection.
    Refused,
    /// The connection was made, and closed by the other side.
    Closed,
    /// A time-out, no route, too many clients: whether its process has ended is not known, and is to be seen from there on.
    Other,
}

impl FailedBy {
    fn of(error: &LinkError) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset};
        match error {
            LinkError::Connect(error) => match error.kind() {
                ConnectionRefused => Self::Refused,
                ConnectionReset | ConnectionAborted | BrokenPipe => Self::Closed,
                _ => Self::Other,
            },
            LinkError::Redis(error) if error.is_connection_dropped() => Self::Closed,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused() -> LinkError {
        LinkError::Connect(io::ErrorKind::ConnectionRefused.into())
    }

    fn watch() -> RefusalWatch {
        let mut watch = RefusalWatch::default();
        watch.answered("run");
        watch.closed(Mono(1_000));
        watch
    }

    #[test]
    fn refusals_some_time_apart_are_told() {
        let mut watch = watch();
        assert_eq!(watch.failed(&refused(), Mono(1_001)), None);
        assert_eq!(watch.failed(&refused(), Mono(1_050)), None);
        for at in [1_051, 2_000] {
            let (since, latest) = (Mono(1_000), Mono(at));
            let refusal = Refusal { run_id: "run".to_owned(), since, latest };
            assert_eq!(watch.failed(&refused(), latest), Some(Some(refusal)));
        }
    }

    #[test]
    fn whatever_else_is_in_the_way_takes_it_back() {
        for other in [
            LinkError::Timeout(Duration::from_millis(500)),
            LinkError::Connect(io::ErrorKind::HostUnreachable.into()),
            LinkError::TurnedAway("max number of clients reached".to_owned()),
        ] {
            let mut watch = watch();
            assert_eq!(watch.failed(&refused(), Mono(1_001)), None);
            assert_eq!(watch.failed(&other, Mono(1_040)), None);
            // It counts from there.
            assert_eq!(watch.failed(&refused(), Mono(1_100)), None, "{other}");
            assert_eq!(watch.failed(&refused(), Mono(1_149)), None, "{other}");
            let (since, latest) = (Mono(1_100), Mono(1_150));
            let refusal = Refusal { run_id: "run".to_owned(), since, latest };
            assert_eq!(watch.failed(&refused(), latest), Some(Some(refusal)), "{other}");
        }
        let mut told = watch();
        told.failed(&refused(), Mono(1_001));
        assert!(matches!(told.failed(&refused(), Mono(1_060)), Some(Some(_))));
        let late = LinkError::Timeout(Duration::ZERO);
        assert_eq!(told.failed(&late, Mono(1_100)), Some(None));
    }

    /// The listener of a process that ends has taken a connection, and it is reset.
    #[test]
    fn a_connection_that_is_closed_once_more_is_counted_from_there() {
        let mut watch = watch();
        assert_eq!(watch.failed(&refused(), Mono(1_001)), None);
        let reset = LinkError::Connect(io::ErrorKind::ConnectionReset.into());
        assert_eq!(watch.failed(&reset, Mono(1_040)), None);
        assert_eq!(watch.failed(&refused(), Mono(1_060)), None);
        let refusal = Refusal { run_id: "run".to_owned(), since: Mono(1_040), latest: Mono(1_110) };
        assert_eq!(watch.failed(&refused(), Mono(1_110)), Some(Some(refusal)));
        assert_eq!(watch.failed(&reset, Mono(1_200)), Some(None));
    }

    /// One that hung, was given up, and then died had no connection to close.
    #[test]
    fn one_that_was_given_up_before_it_died_is_refused_all_the_same() {
        let mut hung = RefusalWatch::default();
        hung.answered("run");
        assert_eq!(hung.failed(&LinkError::Timeout(Duration::from_millis(500)), Mono(900)), None);
        assert_eq!(hung.failed(&refused(), Mono(1_000)), None);
        let (since, latest) = (Mono(1_000), Mono(1_060));
        let refusal = Refusal { run_id: "run".to_owned(), since, latest };
        assert_eq!(hung.failed(&refused(), latest), Some(Some(refusal)));
    }

    #[test]
    fn what_was_never_connected_is_not_refused() {
        let mut watch = RefusalWatch::default();
        watch.closed(Mono(1));
        assert_eq!(watch.failed(&refused(), Mono(2)), None);
        assert_eq!(watch.failed(&refused(), Mono(100)), None);
        // Nor one that answers again.
        let mut back = self::watch();
        back.failed(&refused(), Mono(1_001));
        back.answered("another");
        assert_eq!(back.failed(&refused(), Mono(1_100)), None);
    }
}
