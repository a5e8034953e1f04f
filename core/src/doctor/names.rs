//! What DNS answers.

use super::{CheckFn, Facts, Finding, FindingCode, NameAnswer, NameKind, consul::dns_token, seen};

pub(super) const CHECKS: &[CheckFn] = &[wrong, silent];

fn wrong(facts: &Facts<'_>) -> Vec<Finding> {
    let Some(record) = facts.view.record else { return Vec::new() };
    // One token explains all that is missing.
    let blind: Vec<String> =
        dns_token(facts).into_iter().flat_map(|f| f.evidence).map(|seen| seen.from).collect();
    let say = |asked: &NameAnswer| {
        let answer = asked.answer.as_ref().ok()?;
        let from = format!("DNS at {}", asked.server);
        if asked.kind.is_right(record, answer) || blind.contains(&from) {
            return None;
        }
        let writer =
            record.writer_address().map_or_else(|| "no writer".to_owned(), ToString::to_string);
        let replicas: Vec<String> = record.replicas().map(ToString::to_string).collect();
        let (code, published) = match asked.kind {
            NameKind::Primary => (FindingCode::DnsWrong, writer),
            NameKind::Tag => (FindingCode::DnsTagWrong, writer),
            NameKind::Replica if replicas.is_empty() => {
                (FindingCode::DnsReplicasWrong, "no replica".to_owned())
            }
            NameKind::Replica => (FindingCode::DnsReplicasWrong, replicas.join(", ")),
        };
        let text = format!("DNS answers {answer} for {}: {published} is published", asked.name);
        let evidence = vec![
            seen(from, format!("{}: {answer}", asked.name)),
            seen(format!("key {}", facts.layout.state()), published),
        ];
        let mend = "look what else registers the name (foreign-row), and whether that server has a leader: \
                    consul operator raft list-peers";
        Some(code.found(text, evidence, mend))
    };
    facts.names.iter().filter_map(say).collect()
}

/// Silence is a finding only of a server that the operator named; said once a server.
fn silent(facts: &Facts<'_>) -> Vec<Finding> {
    let asked = facts.names.iter().filter(|asked| asked.named && asked.kind == NameKind::Primary);
    let say = |asked: &NameAnswer| {
        let error = asked.answer.as_ref().err()?;
        let text = format!("DNS at {} does not answer for {}", asked.server, asked.name);
        let mend =
            format!("dig @{} -p {} {}.", asked.server.host(), asked.server.port(), asked.name);
        Some(FindingCode::DnsSilent.found(text, vec![seen(&asked.server, error)], mend))
    };
    asked.filter_map(say).collect()
}
