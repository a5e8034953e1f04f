//! Sentinel's events, as hints: each only says which group to look at now.

use crate::core::identity::address::GroupName;

/// The groups an event is about. Its content is never believed, so a name that stands anywhere in it
/// will do; an event that names none (`+new-epoch`, `+vote-for-leader`, `+tilt`) may be about any.
pub fn groups_of<'a>(payload: &str, groups: &'a [GroupName]) -> Vec<&'a GroupName> {
    let words: Vec<&str> = payload.split_ascii_whitespace().collect();
    let named: Vec<&GroupName> =
        groups.iter().filter(|group| words.contains(&group.as_str())).collect();
    let about_one = words.contains(&"@") || words.first() == Some(&"master") || words.len() == 5;
    if named.is_empty() && !about_one { groups.iter().collect() } else { named }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_wakes_the_group_it_names_or_all() {
        let groups: Vec<GroupName> = ["redis", "cache"].map(|g| g.parse().unwrap()).into();
        let woken = |payload: &str| -> Vec<String> {
            groups_of(payload, &groups).iter().map(ToString::to_string).collect()
        };
        assert_eq!(woken("cache 10.0.0.1 6379 10.0.0.2 6379"), ["cache"]);
        assert_eq!(woken("master redis 10.0.0.1 6379"), ["redis"]);
        assert_eq!(woken("slave 10.0.0.2:6379 10.0.0.2 6379 @ redis 10.0.0.1 6379"), ["redis"]);
        assert_eq!(woken("slave 10.0.0.2:6379 10.0.0.2 6379 @ other 10.0.0.1 6379"), [""; 0]);
        assert_eq!(woken("master other 10.0.0.1 6379 #quorum 2/2"), [""; 0]);
        assert_eq!(woken("7"), ["redis", "cache"]);
    }
}
