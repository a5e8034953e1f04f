//! The scenarios of the main job on the oldest and the newest Redis and Valkey of Debian's suites, whatever the others
//! run on.

use consul_redis::lab::tools::{Age, Family, run_all_on};

/// Each scenario once with one Consul server: how many of those there are has nothing to do with Redis.
macro_rules! each_on {
    ($version:ident: $family:expr, $age:expr) => {
        mod $version {
            use super::*;
            each_on!(scenarios $family, $age;
                switch::{the_name_follows_the_writer_at_level_promotion(1),
                    the_name_follows_the_writer_at_level_quorum(1),
                    writes_on_the_old_primary_are_held_while_it_is_being_replaced(1),
                    a_replica_that_dies_leaves_the_read_endpoints_and_comes_back(),
                    an_instance_that_the_sentinels_forget_loses_its_row(),
                    an_instance_that_closes_the_connection_while_it_is_asked_is_asked_again()}
                fencing::{a_returning_old_primary_is_fenced_and_its_clients_are_disconnected(1),
                    a_primary_replaced_by_hand_is_fenced_once_the_majority_has_followed(1),
                    foreign_data_is_refused_with_a_reason(1),
                    one_that_returns_without_its_data_is_fenced_although_clients_write_to_it_at_once(1),
                    left_to_sentinel_when_the_operator_wants_it_so()}
                first_primary::{blank_instances_and_sentinels_that_know_nothing_become_a_group(1),
                    the_one_with_data_leads_wherever_it_is(1),
                    data_that_has_gone_different_ways_is_left_to_the_operator(1),
                    of_replicas_without_a_primary_the_one_with_the_most_data_is_promoted(1),
                    one_that_dies_at_once_has_a_successor(1)}
                switchover::{no_acknowledged_write_is_lost_at_level_promotion(),
                    no_acknowledged_write_is_lost_at_level_quorum(),
                    a_bare_sentinel_failover_loses_acknowledged_writes(),
                    it_goes_where_it_was_asked_to_and_refuses_with_reasons(),
                    an_agent_that_is_stopped_hands_its_primary_over(),
                    what_cannot_be_handed_over_stays_and_the_agent_stops(),
                    a_failover_that_sentinel_gives_up_is_asked_for_again(),
                    a_handover_that_sentinels_give_up_at_first_is_made_all_the_same(),
                    a_move_that_fails_while_consul_is_away_leaves_no_note_behind()}
                cluster::{from_blank_nodes_to_a_cluster_whose_primary_dies_and_comes_back(),
                    a_node_that_all_others_have_forgotten_is_fit_for_nothing(),
                    a_minority_is_not_believed_and_neither_is_a_server_without_a_cluster(),
                    a_cluster_is_in_the_names_through_the_death_of_a_primary_and_its_return(),
                    a_node_that_all_others_have_forgotten_is_in_no_name(),
                    of_two_agents_one_is_enough_and_each_change_is_written_once(),
                    all_nodes_stop_and_are_started_again(),
                    two_clusters_and_a_group_are_in_one_consul(),
                    a_slot_that_moves_is_followed_and_changes_no_name()}
                cluster_duties::{blank_nodes_become_a_cluster_by_themselves_and_keep_their_places(),
                    redis_high_availability_options_redis_cluster_with_an_agent_on_each_node(),
                    over_tls_and_with_its_own_user_an_agent_makes_a_cluster_and_hastens_an_election(),
                    a_shard_whose_owner_is_dead_is_forced_to_its_replica_by_an_operator_alone(),
                    where_one_of_the_nodes_has_keys_no_cluster_is_made(),
                    nodes_that_do_not_find_one_another_are_named_and_once_they_are_reset_planned_anew(),
                    a_blank_node_beside_an_agent_joins_and_one_that_no_agent_is_beside_does_not(),
                    all_nodes_at_new_addresses_find_one_another_again(),
                    a_primary_that_dies_is_replaced_while_the_others_wait_for_a_moment_only(),
                    a_primary_whose_process_ends_is_replaced_by_the_word_of_its_hosts_kernel(),
                    of_three_agents_one_is_killed_and_then_a_primary_beside_it(),
                    a_spare_takes_the_place_of_a_replica_that_is_dead_for_good(),
                    what_an_agent_said_of_its_node_goes_when_it_is_away_for_long(),
                    agents_that_only_ask_need_no_more_rights_than_that_and_tell_nothing()}
                cluster_places::{the_instances_of_a_service_become_a_cluster_when_all_are_registered(),
                    one_instance_leads_to_all_nodes_and_the_service_to_their_new_addresses()}
                cluster_strangers::{two_clusters_whose_nodes_swap_their_addresses_stay_two(),
                    what_answers_at_dead_nodes_addresses_and_is_none_of_them_counts_for_nothing()}
            );
        }
    };
    (scenarios $family:expr, $age:expr; $($module:ident::{$($scenario:ident($($consuls:literal)?)),+})+) => {
        $(mod $module {
            use super::*;
            $(each_on!(one $family, $age; $module::$scenario $($consuls)?);)+
        })+
    };
    // The servers of this process are these from here on: each test has a process of its own (`.config/nextest.toml`).
    (one $family:expr, $age:expr; $module:ident::$scenario:ident $consuls:literal) => {
        #[tokio::test]
        async fn $scenario() {
            run_all_on($family, $age).unwrap();
            crate::$module::$scenario($consuls).await;
        }
    };
    (one $family:expr, $age:expr; $module:ident::$scenario:ident) => {
        #[test]
        fn $scenario() {
            run_all_on($family, $age).unwrap();
            crate::$module::$scenario();
        }
    };
}

each_on!(redis_oldest: Family::Redis, Age::Oldest);
each_on!(redis_newest: Family::Redis, Age::Newest);
each_on!(valkey_oldest: Family::Valkey, Age::Oldest);
each_on!(valkey_newest: Family::Valkey, Age::Newest);

/// A scenario that is added to those modules and not here would run on one version only.
#[test]
fn no_scenario_of_the_main_job_is_missing() {
    let here = include_str!("on_versions.rs");
    let mut found = 0;
    for text in [
        include_str!("switch.rs"),
        include_str!("fencing.rs"),
        include_str!("first_primary.rs"),
        include_str!("switchover.rs"),
        include_str!("cluster.rs"),
        include_str!("cluster_duties.rs"),
        include_str!("cluster_strangers.rs"),
    ] {
        let alone = text.split("#[tokio::test]\n").skip(1).filter_map(|rest| rest.lines().next());
        let alone = alone.filter_map(|line| line.split_once("fn ")?.1.split('(').next());
        let twice = text.split("on_one_and_three_servers!(").skip(1);
        let twice = twice.flat_map(|rest| rest.split(')').next().unwrap_or_default().split(','));
        for name in alone.chain(twice.map(str::trim)).filter(|name| !name.is_empty()) {
            assert!(here.contains(&format!("{name}(")), "{name} is not here");
            found += 1;
        }
    }
    assert!(found >= 21, "only {found} scenarios were found");
}
