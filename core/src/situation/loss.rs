//! What is known of a primary that has come back without its data ([`crate::situation::data_loss`]).

use crate::identity::address::Address;
use crate::known::memory::Condition;
use crate::shown::reasons::WhyDataLoss;

/// What was found: the primary without data, and those that may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataLoss {
    /// The primary that a majority announces.
    pub primary: Address,
    /// Its `run_id`: a restart of it is another case.
    pub run_id: String,
    /// The instances that hold the group's data, and how many keys each has.
    pub holders: Vec<(Address, u64)>,
    /// The instances that may hold it, and do not answer.
    pub unheard: Vec<Address>,
}

impl DataLoss {
    pub(crate) fn condition(&self) -> Condition {
        Condition::DataLoss(self.primary.clone())
    }

    /// The reason that `status` and the log give.
    pub fn why(&self) -> WhyDataLoss {
        let most = self.holders.iter().max_by_key(|(_, keys)| *keys);
        WhyDataLoss {
            primary: self.primary.clone(),
            holder: most.cloned(),
            unheard: self.unheard.clone(),
        }
    }
}
