//! An instance in maintenance: out of the names, and not chosen.

use consul_redis::lab::world::WorldSpec;

use crate::support::{
    agents, logs, record, run, text, until_in_sync, until_named, until_writer, world,
};

#[tokio::test]
async fn an_instance_in_maintenance_is_in_no_name_and_is_not_chosen() {
    let mut world = world(WorldSpec::default()).await;
    let running = agents(&world, 2, &[]);
    let writer = until_writer(&world, "redis", 20, None).await;
    until_in_sync(&world, "redis", 2).await;
    let [other, out] = [1, 2].map(|index| world.groups[0].redis[index].address.to_string());
    let priority = |server: &str, value: &str| {
        let server = world.server(server).unwrap();
        let command = ["CONFIG", "SET", "replica-priority", value].map(str::to_owned);
        async move { server.ask(&command.each_ref().map(String::as_str)).await.unwrap() }
    };
    // It would be the first choice.
    priority(&out, "7").await;
    let maintenance = |args: &[&str]| {
        let output = run(&world, &[&["maintenance"], args].concat(), &[]);
        (output.status.code(), text(&output))
    };
    let (code, said) = maintenance(&["on", &writer]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is the writer\nhint: consul-redis switchover redis"), "{said}");
    let (code, said) = maintenance(&["on", "127.0.0.1:1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is no instance of redis"), "{said}");
    let (code, said) = maintenance(&["on"]);
    assert_eq!(code, Some(64), "{said}");
    let (code, said) = maintenance(&["list"]);
    assert_eq!((code, said.as_str()), (Some(0), "redis: none in maintenance\n"));

    let (code, said) = maintenance(&["on", &out]);
    assert_eq!(code, Some(0), "{said}{}", logs(&running));
    until_named(&world, "redis-replica", std::slice::from_ref(&other)).await;
    let status = run(&world, &["status"], &[]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
    assert!(text(&status).contains("in maintenance"), "{}", text(&status));
    let refused = run(&world, &["switchover", "redis", "--yes", "--to", &out], &[]);
    assert!(text(&refused).contains(&format!("{out} is in maintenance")), "{}", text(&refused));

    world.server_mut(&writer).unwrap().kill();
    let second = until_writer(&world, "redis", 20, Some(&writer)).await;
    assert_eq!(second, other, "{}", logs(&running));
    until_named(&world, "redis-replica", &[]).await;

    let maintenance = |args: &[&str]| {
        let output = run(&world, &[&["maintenance"], args].concat(), &[]);
        (output.status.code(), text(&output))
    };
    let (_, said) = maintenance(&["list"]);
    assert_eq!(said, format!("{out}  in maintenance (replica-priority was 7)\n"));
    let (code, said) = maintenance(&["off", &out]);
    assert_eq!(code, Some(0), "{said}");
    until_named(&world, "redis-replica", std::slice::from_ref(&out)).await;
    let kept = world.server(&out).unwrap().ask(&["CONFIG", "GET", "replica-priority"]).await;
    assert!(format!("{kept:?}").contains('7'), "{kept:?}");
    assert_eq!(record(&world, "redis").await.unwrap().writer_address().unwrap().to_string(), other);
}
