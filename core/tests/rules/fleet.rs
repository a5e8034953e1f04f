//! Which agents watch which groups.

use std::collections::BTreeSet;
use std::sync::Arc;

use consul_redis_core::fleet::{
    FleetLayout, FleetView, GroupHash, GroupList, LET_GO_AFTER_MS, LISTED_MAX, Share,
    TAKEN_AT_ONCE_MAX, ranked, wanted_watchers,
};
use consul_redis_core::identity::address::GroupName;
use consul_redis_core::time::Mono;

fn hash(group: &str) -> GroupHash {
    GroupHash::new(None, &group.parse().expect("a name"))
}

fn hashes(count: usize) -> Arc<[GroupHash]> {
    (0..count).map(|number| hash(&format!("group-{number}"))).collect()
}

/// Agents with all of these groups.
fn fleet(agents: impl IntoIterator<Item = &'static str>, groups: &[GroupHash]) -> FleetView {
    let list = Arc::new(GroupList::new(groups.iter().copied()));
    agents.into_iter().map(|id| (id.to_owned(), list.clone())).collect()
}

const SEVEN: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

/// What agents of different builds have to agree on: a change of any of these is a change of the protocol.
#[test]
fn hashes_and_ranks_are_the_same_in_each_build() {
    let group: GroupName = "redis".parse().expect("a name");
    let of = |installation| GroupList::new([GroupHash::new(installation, &group)]).text();
    assert_eq!(of(None).expect("a text"), "22392753a5d4d7bd");
    assert_eq!(of(Some("prod-eu")).expect("a text"), "fa872763378e38af");
    assert_eq!(GroupList::new([hash("redis"), hash("cache")]).digest(), "c219cdd70e27134d");
    assert_eq!(ranked(&fleet(SEVEN, &[hash("redis")]), hash("redis")).concat(), "beadgcf");
    assert_eq!(ranked(&fleet(SEVEN, &[hash("cache")]), hash("cache")).concat(), "cabdefg");
    let layout = FleetLayout { prefix: "redis-ha".to_owned() };
    assert_eq!(layout.agent("a"), "redis-ha/=fleet/agents/a");
}

#[test]
fn all_of_a_few_watch_and_three_of_many_unless_the_operator_says_how_many() {
    let wanted: Vec<usize> = (0..8).map(|agents| wanted_watchers(0, agents)).collect();
    assert_eq!(wanted, [0, 1, 2, 3, 4, 5, 3, 3]);
    assert_eq!([1, 2, 9].map(|agents| wanted_watchers(2, agents)), [2, 2, 2]);
}

#[test]
fn a_list_is_what_it_was_and_anything_else_is_none() {
    let groups = hashes(1_000);
    let list = GroupList::new(groups.iter().copied());
    let text = list.text().expect("a text");
    assert_eq!(text.len(), 16_000);
    let read = GroupList::of_text(&text).expect("a list");
    assert_eq!((&read, read.digest()), (&list, list.digest()));
    assert!(groups.iter().all(|group| read.has(*group)) && !read.has(hash("other")));
    for text in ["1", "22392753a5d4d7b", "22392753a5d4d7bd0", "g2392753a5d4d7bd", "é54ec6ecf2c42c7"]
    {
        assert_eq!(GroupList::of_text(text), None, "{text}");
    }
    assert!(GroupList::new([]).is_empty());
    // Consul stores no more under one key.
    let most = GroupList::new(hashes(LISTED_MAX).iter().copied());
    assert!(most.text().is_some_and(|text| text.len() + 2 < 512 * 1024));
    assert_eq!(GroupList::new(hashes(LISTED_MAX + 1).iter().copied()).text(), None);
}

#[test]
fn only_agents_that_are_configured_with_a_group_count_for_it() {
    let groups = hashes(2);
    let mut all = fleet(SEVEN, &groups);
    let other = Arc::new(GroupList::new([groups[1]]));
    for id in ["b", "c", "d", "e", "f", "g"] {
        all.insert(id.to_owned(), other.clone());
    }
    assert_eq!(ranked(&all, groups[0]), ["a"]);
    let mut share = Share::new("a", 1, groups, BTreeSet::new());
    share.saw(&all, Mono(0));
    assert!(share.take().contains(&0));
}

/// The place of a group that this agent is not among the first three for.
fn outranked(own: &str, groups: &[GroupHash]) -> usize {
    let all = fleet(SEVEN, groups);
    let is_first = |group: &GroupHash| ranked(&all, *group)[..3].contains(&own);
    groups.iter().position(|group| !is_first(group)).expect("a group")
}

#[test]
fn an_agent_that_has_not_read_the_fleet_watches_all_and_lets_go_what_others_watch() {
    let groups = hashes(20);
    let group = outranked("a", &groups);
    let mut share = Share::new("a", 0, groups.clone(), BTreeSet::new());
    assert_eq!(share.take().len(), 20);
    share.saw(&fleet(SEVEN, &groups), Mono(500));
    // What it does not take back it still watches.
    assert!(share.take().is_empty() && share.watches(group));
    assert!(share.is_outranked() && share.to_let_go(Mono(500 + LET_GO_AFTER_MS - 1)).is_empty());
    let due = share.to_let_go(Mono(500 + LET_GO_AFTER_MS));
    assert!(due.contains(&group), "{due:?}");
    assert_eq!(share.ranked(group), ranked(&fleet(SEVEN, &groups), groups[group]));
    assert_eq!(share.successors(group), ranked(&fleet(SEVEN, &groups), groups[group])[..3]);
    // They do not watch it yet.
    share.wait_for_others(group, Mono(11_000));
    assert!(!share.to_let_go(Mono(12_000)).contains(&group));
    share.let_go(group);
    assert!(!share.watches(group));
    // They are gone: it is back at once.
    share.saw(&fleet(["a"], &groups), Mono(13_000));
    assert!(share.take().contains(&group));
    assert!(!share.is_outranked());
}

#[test]
fn others_that_come_and_go_are_given_nothing() {
    let groups = hashes(20);
    let mut share = Share::new("a", 0, groups.clone(), BTreeSet::new());
    share.take();
    for second in 0..60 {
        let agents = if second % 8 < 6 { &SEVEN[..] } else { &SEVEN[..1] };
        let now = Mono(second * 1_000);
        share.saw(&fleet(agents.iter().copied(), &groups), now);
        assert_eq!(share.to_let_go(now), Vec::<usize>::new());
    }
}

#[test]
fn a_group_with_an_instance_beside_the_agent_is_never_let_go() {
    let groups = hashes(20);
    let group = outranked("a", &groups);
    let mut share = Share::new("a", 0, groups.clone(), BTreeSet::from([group]));
    share.saw(&fleet(SEVEN, &groups), Mono(0));
    assert!(share.take().contains(&group));
    assert!(!share.to_let_go(Mono(60_000)).contains(&group));
}

#[test]
fn groups_are_taken_a_thousand_at_a_time_and_those_first_that_may_be_alone() {
    let groups = hashes(2_200);
    let mut share = Share::new("a", 0, groups.clone(), BTreeSet::new());
    share.saw(&fleet(SEVEN, &groups), Mono(0));
    let before = share.take().len();
    assert!(before < TAKEN_AT_ONCE_MAX, "{before}");
    share.saw(&fleet(["a", "b", "c"], &groups), Mono(1_000));
    let first = share.take();
    assert_eq!(first.len(), TAKEN_AT_ONCE_MAX);
    assert!(share.has_more());
    let rest = share.take();
    let ahead = |group: &usize| {
        let all = fleet(["a", "b", "c"], &groups);
        ranked(&all, groups[*group]).iter().position(|id| *id == "a")
    };
    assert!(first.iter().map(ahead).max() <= rest.iter().map(ahead).min());
    assert_eq!(before + first.len() + rest.len(), 2_200);
    assert!(!share.has_more());
}

#[test]
fn a_new_config_keeps_what_is_watched_and_adds_what_is_new() {
    let groups = hashes(20);
    let left = outranked("a", &groups);
    let all = fleet(SEVEN, &groups);
    let mut share = Share::new("a", 0, groups, BTreeSet::new());
    share.saw(&all, Mono(0));
    share.take();
    assert!(!share.watches(left));
    let next = share.configured_anew(0, hashes(25), BTreeSet::new(), Mono(1_000));
    let watches = |group: &usize| share.watches(*group);
    assert_eq!(
        (0..20).filter(|group| next.watches(*group)).collect::<Vec<_>>(),
        (0..20).filter(watches).collect::<Vec<_>>()
    );
    assert!((20..25).all(|group| next.watches(group)));
    assert_eq!(next.others().len(), 6);
    // More are to watch: it takes its part.
    let mut more = next.configured_anew(7, hashes(25), BTreeSet::new(), Mono(2_000));
    assert!(more.take().contains(&left));
}
