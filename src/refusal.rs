//! Whether an instance refuses connections since it closed the one that this agent had.

use std::io;

use crate::core::known::observed::Refusal;
use crate::core::policy::REFUSED_TWICE_MS;
use crate::core::time::Mono;
use crate::redis_link::LinkError;

/// What attempts to connect to one instance have come to since it last answered.
#[derive(Debug, Default)]
pub struct RefusalWatch {
    run_id: String,
    /// When it closed the connection; `None` once anything else has happened since.
    closed: Option<Mono>,
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
        if !self.run_id.is_empty() {
            self.closed.get_or_insert(at);
        }
    }

    /// An attempt has failed. What is to be told of it: that it refuses connections, or that something else is in the
    /// way since.
    pub fn failed(&mut self, error: &LinkError, at: Mono) -> Option<Option<Refusal>> {
        let closed = self.closed?;
        if !is_refused(error) {
            // A time-out, no route, too many clients: whether its process has ended is not known.
            let told = std::mem::take(&mut self.told);
            (self.closed, self.refused) = (None, None);
            return told.then_some(None);
        }
        let first = *self.refused.get_or_insert(at);
        if self.told || at - first < REFUSED_TWICE_MS {
            return None;
        }
        self.told = true;
        Some(Some(Refusal { run_id: self.run_id.clone(), since: closed }))
    }
}

fn is_refused(error: &LinkError) -> bool {
    matches!(error, LinkError::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused)
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
    fn two_refusals_some_time_apart_are_told_once() {
        let mut watch = watch();
        assert_eq!(watch.failed(&refused(), Mono(1_001)), None);
        assert_eq!(watch.failed(&refused(), Mono(1_050)), None);
        let refusal = Refusal { run_id: "run".to_owned(), since: Mono(1_000) };
        assert_eq!(watch.failed(&refused(), Mono(1_051)), Some(Some(refusal)));
        assert_eq!(watch.failed(&refused(), Mono(2_000)), None);
    }

    #[test]
    fn whatever_else_is_in_the_way_takes_it_back() {
        for other in [
            LinkError::Timeout(Duration::from_millis(500)),
            LinkError::Connect(io::ErrorKind::HostUnreachable.into()),
            LinkError::Connect(io::ErrorKind::ConnectionReset.into()),
            LinkError::TurnedAway("max number of clients reached".to_owned()),
        ] {
            let mut watch = watch();
            assert_eq!(watch.failed(&refused(), Mono(1_001)), None);
            assert_eq!(watch.failed(&other, Mono(1_040)), None);
            assert_eq!(watch.failed(&refused(), Mono(1_100)), None, "{other}");
            assert_eq!(watch.failed(&refused(), Mono(1_200)), None, "{other}");
        }
        let mut told = watch();
        told.failed(&refused(), Mono(1_001));
        assert!(told.failed(&refused(), Mono(1_060)).is_some_and(|told| told.is_some()));
        assert_eq!(told.failed(&LinkError::Timeout(Duration::ZERO), Mono(1_100)), Some(None));
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
