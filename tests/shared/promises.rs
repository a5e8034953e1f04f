//! The figures that documents promise, in one place. A scenario asserts a promise by its name ([`Promise::kept`]), the
//! document quotes it, `make docs` writes the table of figures in `docs/guarantees.md`, and `tests/book/figures.rs`
//! holds all of them to one another.
#![allow(dead_code, reason = "each test program asserts some of them")]

use std::time::Duration;

use consul_redis::clock::stood_still_for;
use consul_redis::lab::contention::waited_within;

/// The noise of a busy machine: what is promised within a time is asserted within so many times that, for `make test`
/// runs several scenarios at once on two cores, and within as long again as the machine was seen to stand still, or to
/// have more tasks to run than processors. What must not be acknowledged after a moment has no such factor: a late write
/// is a lost one on any machine.
pub const BUSY_FACTOR: u32 = 2;

/// `down-after-milliseconds` from which on the primary of an isolated host holds its writes before another one is
/// published.
pub const HELD_DOWN_AFTER_MS: u64 = 5_000;

const GUARANTEES: &str = "docs/guarantees.md";
const REFERENCE: &str = "docs/reference.md";
const DAY_TWO: &str = "docs/day-two.md";

/// One figure that is promised.
#[derive(Debug)]
pub struct Promise {
    /// The page that promises it.
    pub page: &'static str,
    /// The figure, as the page has it.
    pub says: &'static str,
    /// From what to what.
    pub what: &'static str,
    /// Sooner would be a fault as well, in ms: what has to be waited for was not. 0: the sooner the better.
    pub at_least_ms: u64,
    /// What is promised, in ms.
    pub within_ms: u64,
    /// The scenarios that assert it; their files name the constant.
    pub held_by: &'static [&'static str],
}

impl Promise {
    /// Asserts that a step took as long as is promised, but for the noise of a busy machine.
    #[track_caller]
    pub fn kept(&self, took: Duration) {
        println!("promised: {}, {}; it took {} ms", self.says, self.what, took.as_millis());
        let (least, most) = (Duration::from_millis(self.at_least_ms), self.patience());
        let (still, waited) = (stood_still_for(), waited_within(took));
        assert!(took >= least, "{}: {took:?}, and {least:?} at least", self.what);
        assert!(
            took <= most + still + waited,
            "{}: {took:?}, and promised is {}; the machine stood still for {still:?}, and the scenario waited for a processor for {waited:?}",
            self.what,
            self.says
        );
    }

    /// How long a test may take for it.
    pub fn patience(&self) -> Duration {
        self.exactly() * BUSY_FACTOR
    }

    /// The same in whole seconds.
    pub fn patience_s(&self) -> u64 {
        self.patience().as_secs()
    }

    /// What is promised, without the factor.
    pub const fn exactly(&self) -> Duration {
        Duration::from_millis(self.within_ms)
    }
}

/// A group that has moved, Sentinels and agents too: 5 s until the old writer is out of reach, 6 s in which others may
/// follow, and what it takes to find one another.
pub const MOVED: Promise = Promise {
    page: GUARANTEES,
    says: "13 s",
    what: "from when all of a group is back at other addresses until its new writer is published",
    at_least_ms: 6_000,
    within_ms: 13_000,
    held_by: &[
        "a_group_that_comes_back_at_other_addresses_is_led_by_the_one_with_the_most_data",
        "a_group_whose_sentinels_have_lost_what_they_knew_comes_back_at_other_addresses",
        "a_group_that_keeps_append_only_files_is_led_by_the_one_that_wrote_the_last",
    ],
};

/// The same where the Sentinels stay.
pub const MOVED_ALONE: Promise = Promise {
    page: GUARANTEES,
    says: "9 s",
    what: "the same where the Sentinels have stayed",
    at_least_ms: 6_000,
    within_ms: 9_000,
    held_by: &[
        "instances_that_come_back_at_other_addresses_are_found_under_the_sentinels_that_stayed",
    ],
};

/// A last writer that is back, where most Sentinels were made anew: 2.5 s in which others may show themselves.
pub const FORGOTTEN: Promise = Promise {
    page: GUARANTEES,
    says: "5 s",
    what: "from when blank Sentinels answer at the addresses of a majority until the last writer, which is back, is published again",
    at_least_ms: 0,
    within_ms: 5_000,
    held_by: &["a_group_that_most_of_its_sentinels_have_forgotten_is_named_again"],
};

/// The same where all of them were, and all Redis were restarted: 6 s in which others may follow.
pub const ALL_FORGOTTEN: Promise = Promise {
    page: GUARANTEES,
    says: "10 s",
    what: "from when all Redis that exec runs are started again, and all Sentinels blank, until a writer is published again",
    at_least_ms: 0,
    within_ms: 10_000,
    held_by: &["a_group_that_all_sentinels_have_forgotten_is_led_again"],
};

/// Rows that a clean-up job has swept.
pub const SWEPT: Promise = Promise {
    page: GUARANTEES,
    says: "1 s",
    what: "from when the group's node, a row of it or a key is deleted until it is back",
    at_least_ms: 0,
    within_ms: 1_000,
    held_by: &[
        "a_node_that_is_swept_is_back_within_a_second_and_the_log_says_what_was_swept",
        "a_row_or_a_key_that_is_swept_is_back_within_a_second_and_the_log_says_which",
    ],
};

/// A primary that dies before any Sentinel knows its replicas.
pub const DIED_FIRST: Promise = Promise {
    page: GUARANTEES,
    says: "17 s",
    what: "from when a primary dies of which no Sentinel knows a replica until one of them is published",
    at_least_ms: 14_000,
    within_ms: 17_000,
    held_by: &["a_primary_that_dies_while_no_sentinel_knows_a_replica_is_replaced"],
};

/// Sentinels that are reset as the primary dies, and agents beside no instance: 6 s in which others may follow, and
/// what it takes to tell the Sentinels.
pub const RESET_AS_IT_DIED: Promise = Promise {
    page: GUARANTEES,
    says: "9 s",
    what: "from when a primary is withdrawn whose Sentinels were reset as it died until a replica is published and confirmed",
    at_least_ms: 6_000,
    within_ms: 9_000,
    held_by: &[
        "a_group_whose_sentinels_were_reset_as_its_primary_died_is_led_out_by_agents_elsewhere",
    ],
};

/// A primary that is restarted without its data beside its replicas.
pub const EMPTIED: Promise = Promise {
    page: GUARANTEES,
    says: "2 s",
    what: "from when a primary is restarted without its data, beside its replicas, until one of these is published",
    at_least_ms: 0,
    within_ms: 2_000,
    held_by: &["a_primary_restarted_without_its_data_leads_no_instance_that_has_it"],
};

/// The same where all were stopped: a Sentinel that has just met a replica may not choose it yet, and is asked again 5
/// s later; and those that have not returned are waited for, for 6 s.
pub const EMPTIED_ALONE: Promise = Promise {
    page: GUARANTEES,
    says: "12 s",
    what: "from when an instance with the data returns to a primary that is empty until it is published",
    at_least_ms: 0,
    within_ms: 12_000,
    held_by: &[
        "an_empty_primary_that_is_the_first_to_return_leads_no_instance_with_data",
        "a_stray_primary_that_holds_the_data_leads_in_the_place_of_an_empty_one",
        "an_empty_primary_leads_no_instance_whose_data_is_in_an_append_only_file",
    ],
};

/// The same, and it says that it is a replica.
pub const EMPTIED_REPLICA: Promise = Promise {
    page: GUARANTEES,
    says: "25 s",
    what: "from when a primary is back empty and as a replica until another one is published",
    at_least_ms: 15_000,
    within_ms: 25_000,
    held_by: &["an_empty_primary_that_starts_as_a_replica_leads_no_instance"],
};

/// A primary whose host is isolated.
pub const HELD: Promise = Promise {
    page: GUARANTEES,
    says: "3 s",
    what: "from when a primary's host sees neither Consul nor a majority of the Sentinels until its last write",
    at_least_ms: 1_000,
    within_ms: 3_000,
    held_by: &[
        "an_isolated_primary_holds_its_writes_and_heals_by_itself",
        "an_isolated_primary_acknowledges_nothing_after_the_new_writer_is_published",
    ],
};

/// A Sentinel's settings.
pub const SETTINGS_TOLD: Promise = Promise {
    page: DAY_TWO,
    says: "two seconds",
    what: "from when a Sentinel differs from the settings that agents keep until it has them",
    at_least_ms: 0,
    within_ms: 2_000,
    held_by: &["settings_reach_all_sentinels_and_stay"],
};

/// A Sentinel that points elsewhere.
pub const DISAGREEMENT: Promise = Promise {
    page: DAY_TWO,
    says: "30 s",
    what: "from when a Sentinel disagrees with the majority until it is reconfigured",
    at_least_ms: 29_000,
    within_ms: 35_000,
    held_by: &["a_sentinel_that_disagrees_for_long_is_reconfigured"],
};

/// A password for the instances.
pub const PASSWORD_TOLD: Promise = Promise {
    page: REFERENCE,
    says: "10 s",
    what: "from when the instances' password is changed until all Sentinels have logged in with it",
    at_least_ms: 0,
    within_ms: 10_000,
    held_by: &["sentinels_get_a_password_that_was_replaced"],
};

/// An agent's key.
pub const PRESENCE: Promise = Promise {
    page: REFERENCE,
    says: "20 s",
    what: "from when an agent is gone until its key is",
    at_least_ms: 0,
    within_ms: 20_000,
    held_by: &["agents_that_die_change_nothing_that_is_published"],
};

/// An agent of a fleet: until its session has ended, and the interval of the others.
pub const REPLACED: Promise = Promise {
    page: GUARANTEES,
    says: "21 s",
    what: "from when agents are gone until others watch their groups",
    at_least_ms: 0,
    within_ms: 21_000,
    held_by: &["seven_agents_share_groups_and_replace_one_another"],
};

/// A failover by Sentinel's own command.
pub const BOTH_WRITE: Promise = Promise {
    page: DAY_TWO,
    says: "11 s",
    what: "from a bare SENTINEL FAILOVER until the last write that the old primary took",
    at_least_ms: 8_000,
    within_ms: 12_000,
    held_by: &["a_bare_sentinel_failover_loses_acknowledged_writes"],
};

/// Followers hear with the leader's next heartbeat, 100 ms away at most, that a write is committed
/// (`docs/facts/consul.md` 3).
pub const LATE_SERVER: Promise = Promise {
    page: GUARANTEES,
    says: "250 ms",
    what: "from when one of three Consul servers gives a newer answer until the last older one of another",
    at_least_ms: 0,
    within_ms: 250,
    held_by: &[
        "the_name_follows_the_writer_at_level_promotion",
        "the_name_follows_the_writer_at_level_quorum",
    ],
};

/// An old primary that keeps an append-only file, and clients that did not let go of it.
pub const RETURNED_AOF: Promise = Promise {
    page: GUARANTEES,
    says: "0.25 s",
    what: "from the first to the last write that an old primary with an append-only file takes when it is back",
    at_least_ms: 0,
    within_ms: 250,
    held_by: &[
        "an_old_primary_with_an_append_only_file_is_fenced_as_soon_as_it_is_back",
        "an_old_primary_of_redis_6_with_a_snapshot_is_fenced_as_soon_as_it_is_back",
    ],
};

/// The same where nothing but the mark in its data set says whose data it is.
pub const RETURNED_MARKED: Promise = Promise {
    page: GUARANTEES,
    says: "250 ms",
    what: "the same where only the mark in its data set can tell whose data it holds (`mark`)",
    at_least_ms: 0,
    within_ms: 250,
    held_by: &["an_old_primary_is_known_by_the_mark_in_its_append_only_file"],
};

/// The same where its agent was away with it, and no Sentinel lists it any more.
pub const RETURNED_WHOLE: Promise = Promise {
    page: GUARANTEES,
    says: "2 s",
    what: "from the first to the last write that an old primary with an append-only file takes when its host is back whole, and no Sentinel lists it any more",
    at_least_ms: 0,
    within_ms: 2_000,
    held_by: &["an_old_primary_whose_agent_was_away_too_is_known_by_what_that_one_noted"],
};

/// A replica that was chosen and hung, and that obeys when another one is the writer.
pub const OVERTAKEN: Promise = Promise {
    page: GUARANTEES,
    says: "1 s",
    what: "from the first to the last write that a replica takes which a failover chose, which hung, and which wakes when another one is the writer",
    at_least_ms: 0,
    within_ms: 1_000,
    held_by: &["a_replica_that_was_chosen_before_the_writer_and_wakes_is_fenced_at_once"],
};

/// All Redis under `exec` are stopped and started again.
pub const ALL_RESTARTED: Promise = Promise {
    page: GUARANTEES,
    says: "5 s",
    what: "from when all instances, which were all stopped, answer again until the last writer is published",
    at_least_ms: 0,
    within_ms: 5_000,
    held_by: &["where_all_were_stopped_the_last_writer_leads_again_and_nothing_is_lost"],
};

/// The kernel of its host tells of it, whatever `down-after-milliseconds` is. At level `quorum` all Sentinels have
/// followed.
pub const PROVEN: Promise = Promise {
    page: GUARANTEES,
    says: "2 s",
    what: "from when the writer's process ends, as the agent beside it sees, until another one is published",
    at_least_ms: 0,
    within_ms: 2_000,
    held_by: &[
        "a_writer_that_is_killed_is_replaced_at_once_at_level_promotion",
        "a_writer_that_is_killed_is_replaced_at_once_at_level_quorum",
    ],
};

/// `fast_failover = "vote"`: all agents are refused by the dead writer's host.
pub const VOTED: Promise = Promise {
    page: GUARANTEES,
    says: "3 s",
    what: "where Sentinels are to vote at once, from when the writer's process ends until another one is published",
    at_least_ms: 0,
    within_ms: 3_000,
    held_by: &["a_writer_that_refuses_all_agents_is_voted_out_at_once"],
};

/// All of them, by name.
pub const ALL: [(&str, &Promise); 25] = [
    ("ALL_FORGOTTEN", &ALL_FORGOTTEN),
    ("FORGOTTEN", &FORGOTTEN),
    ("MOVED", &MOVED),
    ("MOVED_ALONE", &MOVED_ALONE),
    ("SWEPT", &SWEPT),
    ("DIED_FIRST", &DIED_FIRST),
    ("RESET_AS_IT_DIED", &RESET_AS_IT_DIED),
    ("EMPTIED", &EMPTIED),
    ("EMPTIED_ALONE", &EMPTIED_ALONE),
    ("EMPTIED_REPLICA", &EMPTIED_REPLICA),
    ("HELD", &HELD),
    ("SETTINGS_TOLD", &SETTINGS_TOLD),
    ("DISAGREEMENT", &DISAGREEMENT),
    ("PASSWORD_TOLD", &PASSWORD_TOLD),
    ("PRESENCE", &PRESENCE),
    ("REPLACED", &REPLACED),
    ("BOTH_WRITE", &BOTH_WRITE),
    ("LATE_SERVER", &LATE_SERVER),
    ("RETURNED_AOF", &RETURNED_AOF),
    ("RETURNED_MARKED", &RETURNED_MARKED),
    ("RETURNED_WHOLE", &RETURNED_WHOLE),
    ("OVERTAKEN", &OVERTAKEN),
    ("ALL_RESTARTED", &ALL_RESTARTED),
    ("PROVEN", &PROVEN),
    ("VOTED", &VOTED),
];
