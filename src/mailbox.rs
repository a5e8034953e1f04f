//! What waits for one task to do. What is posted is merged with what waits there already, so there is no queue that
//! could be full, and nothing that matters is left out because something else came before it.

use tokio::sync::watch;

/// A place for one task's orders. It is empty when it is `T::default()`.
#[derive(Debug)]
pub struct Mailbox<T>(watch::Sender<T>);

impl<T: Default> Default for Mailbox<T> {
    fn default() -> Self {
        Self(watch::Sender::default())
    }
}

impl<T: Default + PartialEq> Mailbox<T> {
    /// Adds to what waits, and wakes the task.
    pub fn post(&self, add: impl FnOnce(&mut T)) {
        self.0.send_modify(add);
    }

    /// Waits until something was posted, and takes all of it. Cancel safe. For one task alone.
    pub async fn take(&self) -> T {
        let mut posted = self.0.subscribe();
        loop {
            let mut waiting = T::default();
            self.0.send_if_modified(|inside| {
                std::mem::swap(inside, &mut waiting);
                false
            });
            if waiting != T::default() {
                return waiting;
            }
            // The sender is ours, so it is not closed.
            let _ = posted.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_is_posted_is_merged_and_taken_once() {
        let mailbox = Mailbox::<BTreeSet<u32>>::default();
        for n in [1, 2, 1] {
            mailbox.post(|all| {
                all.insert(n);
            });
        }
        assert_eq!(mailbox.take().await, BTreeSet::from([1, 2]));
        let none = tokio::time::timeout(Duration::from_millis(20), mailbox.take()).await;
        assert!(none.is_err(), "{none:?}");
    }

    #[tokio::test]
    async fn one_that_waits_is_woken() {
        let mailbox = Arc::new(Mailbox::<BTreeSet<u32>>::default());
        let theirs = mailbox.clone();
        let waiting = tokio::spawn(async move { theirs.take().await });
        tokio::task::yield_now().await;
        mailbox.post(|all| {
            all.insert(7);
        });
        assert_eq!(waiting.await.unwrap(), BTreeSet::from([7]));
    }
}
