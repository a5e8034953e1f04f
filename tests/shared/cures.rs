//! Where the cure of each finding of `doctor` is carried out on real servers, or why none is. `tests/docs.rs` holds the
//! list complete, and each scenario to the finding that it is listed for.

/// What becomes of the cure of a finding.
pub enum Cure {
    /// This scenario (`file::test`) makes the fault, does what `doctor` says, and sees that the finding is gone.
    CarriedOut(&'static str),
    /// What it says cannot be done in a test, or its effect cannot be seen, for this reason.
    NotHere(&'static str),
}

use Cure::{CarriedOut, NotHere};

/// Settings of instances and Sentinels.
const SETTINGS: Cure = CarriedOut("doctor::what_doctor_says_cures_what_it_found");
const GONE: Cure = CarriedOut("cures::sentinels_that_are_gone_or_hear_too_few_are_brought_back");
const LOGINS: Cure = CarriedOut("cures::logins_that_are_refused_are_let_in");
const HOSTS: Cure = CarriedOut("cures::hosts_that_are_not_as_they_should_be_are_put_right");
const LOOPBACK: Cure =
    CarriedOut("cures::loopback_addresses_are_replaced_by_those_that_lead_to_the_servers");
const ALONE: Cure = CarriedOut("cures::a_group_that_begins_alone_is_made_whole");
const DNS: Cure = CarriedOut("cures::names_that_others_answer_for_are_the_groups_again");
const OBSERVED: Cure =
    CarriedOut("cures::what_agents_that_observe_leave_alone_is_done_by_an_operator");
const LEFT: Cure = CarriedOut("doctor::what_doctor_says_cures_what_agents_leave_alone");
const SENTINELS: Cure = CarriedOut("doctor::what_is_wrong_with_sentinels_is_found");
const RIGHTS: Cure =
    CarriedOut("doctor::what_a_login_may_not_do_is_named_with_the_command_that_allows_it");
const CONSUL: Cure = CarriedOut("doctor::what_doctor_says_of_consul_cures_it");
const TOKEN: Cure = CarriedOut("doctor::a_right_that_is_missing_is_named");
const AGE: Cure = CarriedOut("doctor::what_redis_6_lacks_is_found_and_nothing_else");
const DISKS: Cure = CarriedOut(
    "reach::replicas_whose_disks_are_full_serve_reads_and_status_says_why_none_is_chosen",
);

const UPGRADE: Cure = CarriedOut("cures::an_upgrade_cures_what_older_versions_lack");
const NAMES: Cure =
    CarriedOut("hostnames::sentinels_that_do_not_use_names_as_the_others_do_are_found_and_cured");

const ZONES: Cure = CarriedOut("zones::a_group_that_outlives_no_zone_is_found_and_spread");

const CLUSTERS: Cure = CarriedOut("cluster_surfaces::what_doctor_says_of_a_cluster_cures_it");

/// All findings, by code.
pub const CURES: &[(&str, Cure)] = &[
    ("no-majority", GONE),
    ("quorum-too-high", SETTINGS),
    ("no-quorum", GONE),
    ("sentinels-disagree", LEFT),
    ("tilt", GONE),
    ("same-sentinel-id", CarriedOut("electorate::sentinels_with_one_id_are_named")),
    (
        "replicas-forgotten",
        CarriedOut(
            "reach::replicas_that_sentinels_have_forgotten_keep_their_rows_and_doctor_says_how_one_leads",
        ),
    ),
    ("names-not-resolved", NAMES),
    (
        "sentinel-login",
        CarriedOut("sentinel_logins::a_login_that_the_writer_refuses_is_given_to_no_sentinel"),
    ),
    ("sentinel-user-weak", AGE),
    ("sentinel-down", SENTINELS),
    ("sentinel-unreachable", LOGINS),
    (
        "relay-refused",
        CarriedOut(
            "relay::where_sentinels_refuse_the_relay_it_is_said_and_the_majority_is_waited_for",
        ),
    ),
    ("sentinel-lacks-group", LEFT),
    ("sentinel-count-differs", GONE),
    ("sentinels-few", ALONE),
    ("sentinels-even", SENTINELS),
    ("quorum-no-spare", SETTINGS),
    ("quorum-one", SETTINGS),
    ("quorum-differs", SETTINGS),
    ("down-after-differs", SETTINGS),
    ("down-after-short", SETTINGS),
    ("failover-timeout-differs", SETTINGS),
    ("failover-timeout-short", SETTINGS),
    ("parallel-syncs-differs", SETTINGS),
    ("settings-not-kept", OBSERVED),
    ("ghost-replica", SENTINELS),
    ("names-mixed", NAMES),
    (
        "called-down",
        CarriedOut("cures::a_primary_that_sentinels_cannot_log_in_to_is_called_down_and_up_again"),
    ),
    ("loopback-announced", LOOPBACK),
    ("sentinel-login-weak", RIGHTS),
    ("sentinel-right", RIGHTS),
    (
        "sentinel-config-unsaved",
        CarriedOut("sentinel_logins::a_sentinel_that_cannot_save_its_config_is_told_once"),
    ),
    ("sentinel-version", UPGRADE),
    ("down-after-long", SETTINGS),
    ("reboot-unbounded", CONSUL),
    ("failover-timeout-long", SETTINGS),
    ("second-primary", OBSERVED),
    ("no-replicas", ALONE),
    ("nobody-eligible", SETTINGS),
    ("min-replicas-unmet", SETTINGS),
    ("persistence-fails", DISKS),
    ("instance-silent", LOGINS),
    ("instance-not-ready", DISKS),
    ("link-down", LOGINS),
    ("follows-another", LEFT),
    ("replica-lags", HOSTS),
    ("min-replicas-no-spare", SETTINGS),
    ("min-replicas-differ", SETTINGS),
    ("persistence-off", SETTINGS),
    ("instance-right", RIGHTS),
    (
        "command-renamed",
        NotHere(
            "no Sentinel shows which names it was told: tests/e2e/renamed.rs fails over with them",
        ),
    ),
    ("writes-not-held", UPGRADE),
    (
        "two-addresses",
        CarriedOut("identity::a_primary_at_two_addresses_is_never_told_to_follow_itself"),
    ),
    ("loopback-address", LOOPBACK),
    (
        "announce-differs",
        CarriedOut(
            "doctor::a_replica_that_announces_another_address_is_known_by_its_own_after_the_cure",
        ),
    ),
    ("replica-writable", SETTINGS),
    ("replica-buffer-small", SETTINGS),
    ("maxmemory-differs", SETTINGS),
    ("maxmemory-policy-differs", SETTINGS),
    ("config-file-missing", HOSTS),
    ("clock-skew", HOSTS),
    ("versions-differ", UPGRADE),
    ("group-one-zone", ZONES),
    ("priority-zero", SETTINGS),
    ("zone-order", ZONES),
    ("replica-unannounced", SETTINGS),
    ("min-replicas-off", SETTINGS),
    ("diskless-delay", SETTINGS),
    ("death-unseen", HOSTS),
    (
        "notify-failed",
        CarriedOut("notify::a_target_that_is_down_is_found_and_is_told_again_once_it_is_up"),
    ),
    (
        "paused",
        CarriedOut("pause::a_paused_group_is_followed_and_told_nothing_until_it_is_resumed"),
    ),
    ("pause-unaware", NotHere("the cure is another version of an agent than the tests have")),
    ("in-maintenance", SETTINGS),
    (
        "cluster-no-majority",
        CarriedOut("cluster_surfaces::without_a_majority_every_surface_says_so_until_it_is_back"),
    ),
    (
        "cluster-unelectable",
        CarriedOut(
            "cluster_surfaces::a_dead_primary_that_was_forgotten_too_soon_is_replaced_by_hand",
        ),
    ),
    (
        "cluster-self-promoted",
        CarriedOut(
            "cluster_surfaces::a_node_that_promoted_itself_by_old_votes_is_named_and_followed_by_hand",
        ),
    ),
    ("cluster-node-silent", CLUSTERS),
    ("cluster-ghost", CLUSTERS),
    (
        "cluster-stranger",
        CarriedOut(
            "cluster_surfaces::a_node_that_no_agent_has_recorded_is_a_stranger_until_one_has",
        ),
    ),
    (
        "cluster-not-forgotten",
        CarriedOut("cluster_surfaces::a_dead_node_of_valkey_is_to_be_forgotten"),
    ),
    ("cluster-no-replica", CLUSTERS),
    (
        "cluster-one-host",
        CarriedOut("cluster_surfaces::a_shard_that_is_on_one_host_is_spread_as_doctor_says"),
    ),
    (
        "cluster-one-zone",
        CarriedOut("cluster_places::a_shard_that_is_in_one_zone_is_spread_as_doctor_says"),
    ),
    ("cluster-min-replicas", CLUSTERS),
    ("cluster-persistence-off", CLUSTERS),
    ("cluster-node-timeout", CLUSTERS),
    ("cluster-haste-left", CLUSTERS),
    ("cluster-reads-when-down", CLUSTERS),
    (
        "cluster-degraded",
        NotHere("it stands for problems of `status` that have no finding of their own"),
    ),
    ("cluster-full-coverage", CLUSTERS),
    ("consul-login", CarriedOut("login::a_renewal_that_fails_is_said_everywhere_and_mended")),
    ("consul-tags", NotHere("the cure is another Consul than the one that the tests have")),
    ("foreign-row", CONSUL),
    ("foreign-node", ALONE),
    ("acl-right", TOKEN),
    ("dns-token", TOKEN),
    ("consul-txn-acl", NotHere("the cure is another Consul than the one that the tests have")),
    ("max-stale", CONSUL),
    ("service-ttl", CONSUL),
    ("dns-cache", CONSUL),
    ("only-passing", DNS),
    ("acl-session", TOKEN),
    ("acl-fleet", TOKEN),
    ("dns-truncate", DNS),
    ("dns-wrong", DNS),
    ("dns-tag-wrong", DNS),
    ("dns-replicas-wrong", DNS),
    ("dns-silent", ALONE),
    (
        "not-ours",
        CarriedOut(
            "electorate::another_group_of_the_same_name_is_left_alone_until_an_operator_adopts_it",
        ),
    ),
    ("no-agents", CONSUL),
    (
        "not-healthy",
        NotHere("it stands for problems of `status` that have no finding of their own"),
    ),
    ("key-unreadable", CONSUL),
    ("one-agent", CONSUL),
    ("fewer-watchers", CarriedOut("fleet::seven_agents_share_groups_and_replace_one_another")),
    ("flapping", NotHere("it is about the last hour: nothing that is done now ends it sooner")),
    (
        "agent-clock",
        CarriedOut(
            "times::a_switch_that_two_agents_saw_is_timed_though_their_clocks_differ_by_hours",
        ),
    ),
    (
        "words-differ",
        CarriedOut("words::agents_with_different_words_do_not_fight_and_older_ones_hide_them"),
    ),
    (
        "not-started",
        CarriedOut("doctor::before_the_first_agent_doctor_says_that_it_is_not_started"),
    ),
    ("unread", LOGINS),
];
