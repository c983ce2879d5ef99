//! 11 and 361.

use std::time::Instant;

use wire::{Body, RequestCode, SubscriptionGroupConfig};

use super::clients::{heartbeat, request};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn offsets_decide_the_code() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    for n in 0..5 {
        node.send("T", 0, "", &n.to_string()).await;
    }
    let pulled = node.pull(pull_header("T", 0, 2)).await;
    assert_eq!((pulled.code, pulled.bodies()), (0, vec!["2", "3", "4"]));
    let PullMessageResponse { next_begin_offset, min_offset, max_offset, suggest_which_broker_id, .. } =
        pulled.header;
    assert_eq!((next_begin_offset, min_offset, max_offset, suggest_which_broker_id), (5, 0, 5, 0));
    for (queue, offset, code, next) in
        [(0, 5, 19, 5), (0, 6, 21, 5), (0, -1, 21, 0), (1, 0, 19, 0), (1, 3, 21, 0)]
    {
        let pulled = node.pull(pull_header("T", queue, offset)).await;
        assert_eq!(
            (pulled.code, pulled.header.next_begin_offset),
            (code, next),
            "queue {queue} offset {offset}"
        );
        assert!(pulled.messages.is_empty());
    }
    let one = node.pull(PullMessageRequest { max_msg_nums: 1, ..pull_header("T", 0, 0) }).await;
    assert_eq!((one.bodies(), one.header.next_begin_offset), (vec!["0"], 1));
    let few_bytes = node.pull(PullMessageRequest { max_msg_bytes: Some(1), ..pull_header("T", 0, 0) }).await;
    assert_eq!(few_bytes.bodies(), ["0"], "the first goes out whatever its size");
    let lite = node.ask(RequestCode::LITE_PULL_MESSAGE, &pull_header("T", 0, 0)).await;
    assert_eq!(lite.code, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks() {
    let node = OneNode::with(|config| config.groups[0].auto_create_group = false.into()).await;
    node.create_topic("T", 2).await;
    let tools = || PullMessageRequest { consumer_group: "TOOLS_CONSUMER".into(), ..pull_header("T", 0, 0) };
    assert_eq!(node.pull_code(tools()).await, 19);
    for (header, want) in [
        (pull_header("T", 0, 0), 26),
        (PullMessageRequest { topic: "U".into(), ..tools() }, 17),
        (PullMessageRequest { queue_id: 2, ..tools() }, 29),
        (PullMessageRequest { queue_id: -1, ..tools() }, 29),
        (PullMessageRequest { sys_flag: 0, ..tools() }, 24),
        (PullMessageRequest { subscription: Some("||".into()), ..tools() }, 23),
    ] {
        assert_eq!(node.pull_code(header.clone()).await, want, "{header:?}");
    }
    node.stop().await;
}

/// A group as an administrator sets it.
async fn configure(node: &OneNode, change: impl FnOnce(&mut SubscriptionGroupConfig)) {
    let mut group = SubscriptionGroupConfig::new("g");
    change(&mut group);
    let request = RemotingCommand::request(RequestCode::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP);
    assert_eq!(node.call(request.with_body(group.encode())).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_says_what_its_consumers_may() {
    let node = OneNode::with(|config| config.groups[0].follower_reads = true.into()).await;
    node.create_topic("T", 1).await;
    node.send("T", 0, "", "m").await;
    configure(&node, |group| group.broker_id = 2).await;
    let pulled = node.pull(pull_header("T", 0, 0)).await;
    assert_eq!((pulled.code, pulled.header.suggest_which_broker_id), (0, 2), "where it usually reads");

    let by_heartbeat =
        || PullMessageRequest { sys_flag: 0, subscription: None, sub_version: 1, ..pull_header("T", 0, 0) };
    let mut data = heartbeat("c1", "g", "T");
    data.consumer_data_set[0].message_model = wire::MessageModel::Broadcasting;
    assert_eq!(node.call(request(&data)).await.code, 0);
    assert_eq!(node.pull_code(by_heartbeat()).await, 0);
    configure(&node, |group| group.consume_broadcast_enable = false).await;
    let response = node.ask(RequestCode::PULL_MESSAGE, &by_heartbeat()).await;
    let remark = "the consumer group[g] can not consume by broadcast way";
    assert_eq!((response.code, response.remark.as_deref()), (16, Some(remark)));
    data.consumer_data_set[0].message_model = wire::MessageModel::Clustering;
    assert_eq!(node.call(request(&data)).await.code, 0);
    assert_eq!(node.pull_code(by_heartbeat()).await, 0);

    configure(&node, |group| group.consume_enable = false).await;
    for header in [by_heartbeat(), pull_header("T", 0, 0)] {
        assert_eq!(node.pull_code(header.clone()).await, 16);
        assert_eq!(node.ask(RequestCode::LITE_PULL_MESSAGE, &header).await.code, 16);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_filter_by_hash() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for (tag, body) in [("a", "1"), ("b", "2"), ("", "3"), ("a", "4"), ("c", "5")] {
        node.send("T", 0, &properties(&[("TAGS", tag)]), body).await;
    }
    let with = |expression: &str| PullMessageRequest {
        subscription: Some(expression.into()),
        ..pull_header("T", 0, 0)
    };
    for (expression, bodies) in
        [("*", vec!["1", "2", "3", "4", "5"]), ("a", vec!["1", "4"]), ("b || c", vec!["2", "5"])]
    {
        let pulled = node.pull(with(expression)).await;
        assert_eq!((pulled.bodies(), pulled.header.next_begin_offset), (bodies, 5), "{expression}");
    }
    let nothing = node.pull(with("z")).await;
    assert_eq!((nothing.code, nothing.header.next_begin_offset), (20, 5), "looked at and passed by");
    node.stop().await;
}

fn held(offset: i64, subscription: &str, ms: i64) -> PullMessageRequest {
    PullMessageRequest {
        sys_flag: pull_flag::SUBSCRIPTION | pull_flag::SUSPEND,
        suspend_timeout_millis: ms,
        subscription: Some(subscription.into()),
        ..pull_header("T", 0, offset)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_pull_is_woken_by_what_it_wants() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let start = Instant::now();
    let (pulled, ()) = tokio::join!(node.pull(held(0, "a", 60_000)), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.send("T", 0, &properties(&[("TAGS", "b")]), "not wanted").await;
        node.send("T", 0, &properties(&[("TAGS", "a")]), "wanted").await;
    });
    assert_eq!((pulled.code, pulled.bodies()), (0, vec!["wanted"]));
    assert!(start.elapsed() < SOON);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_pull_ends_with_its_time_and_with_the_node() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let start = Instant::now();
    let pulled = node.pull(held(0, "*", 300)).await;
    assert_eq!((pulled.code, pulled.header.next_begin_offset), (19, 0));
    assert!(start.elapsed() >= Duration::from_millis(300));

    let request = RemotingCommand::request(RequestCode::PULL_MESSAGE).with_header(&held(0, "*", 60_000));
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    let waiting = tokio::spawn(async move { connection.request(request, SOON).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.stop().await;
    assert_eq!(waiting.await.unwrap().unwrap().code, 19, "a planned stop answers what is held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_hold_list_refuses() {
    let node = OneNode::with(|config| config.limits.held_pulls = 1).await;
    node.create_topic("T", 1).await;
    let connection = node.client.connection(&node.address, SOON).await.unwrap();
    let request = || RemotingCommand::request(RequestCode::PULL_MESSAGE).with_header(&held(0, "*", 2_000));
    let (first, second) =
        tokio::join!(connection.request(request(), SOON), connection.request(request(), SOON));
    let mut codes = [first.unwrap().code, second.unwrap().code];
    codes.sort_unstable();
    assert_eq!(codes, [2, 19]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_may_bring_a_commit() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    node.send("T", 0, "", "m").await;
    let mut header = PullMessageRequest { consumer_group: "TOOLS_CONSUMER".into(), ..pull_header("T", 0, 0) };
    header.sys_flag |= pull_flag::COMMIT_OFFSET;
    header.commit_offset = 1;
    assert_eq!(node.pull_code(header).await, 0);
    assert_eq!(super::offsets::stored(&node, "TOOLS_CONSUMER", "T", 0).await, Some(1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_bounded_whatever_is_asked() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for n in 0..40 {
        node.send("T", 0, &properties(&[("TAGS", "a")]), &n.to_string()).await;
    }
    for subscription in ["*", "a"] {
        for (asked, want) in [(i32::MAX, 32), (33, 32), (1, 1), (0, 1), (-1, 1)] {
            let header = PullMessageRequest {
                max_msg_nums: asked,
                subscription: Some(subscription.into()),
                ..pull_header("T", 0, 2)
            };
            let pulled = node.pull(header).await;
            let PullMessageResponse { next_begin_offset, max_offset, .. } = pulled.header;
            assert_eq!(pulled.messages.len(), want, "{subscription} {asked}");
            assert_eq!((next_begin_offset, max_offset), (2 + want as i64, 40), "{subscription} {asked}");
        }
    }
    node.stop().await;
}

/// tmpfs, for one, does not take RWF_NOWAIT.
#[cfg(target_os = "linux")]
fn can_tell_what_is_in_memory(dir: &std::path::Path) -> bool {
    let file = store::Disk::create(&store::OsDisk, &dir.join("probe")).unwrap();
    file.write_all_at(0, b"x").unwrap();
    file.read_resident_at(0, &mut [0])
}

/// What the index has written to files is read as what it has in memory, while the kernel has it there: a reader that is some
/// hundred thousand messages behind is not one that waits for the disk.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_in_the_page_cache_comes_in_whole_batches() {
    let node = OneNode::start().await;
    if !can_tell_what_is_in_memory(node.data.path()) {
        eprintln!("SKIPPED: the file system of temporary files cannot tell what is in memory");
        return node.stop().await;
    }
    node.create_topic("T", 1).await;
    let many = super::refusing::batch(&vec![("m", ""); 1024]);
    // A part of the index, and some.
    for _ in 0..=store::limits::INDEX_PART_UNITS_MAX / 1024 {
        let response = node.call(many.clone()).await;
        assert_eq!(response.code, 0, "{:?}", response.remark);
    }
    let hosted = node.broker.hosted("b1");
    let index = &hosted.serving().unwrap().index;
    let soon = async {
        while index.stats().files == 0 || index.stats().memory_units > store::limits::INDEX_PART_UNITS_MAX {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The first one opens the file, on a thread that may wait.
        while node.pull(pull_header("T", 0, 0)).await.messages.len() < 32 {}
    };
    tokio::time::timeout(Duration::from_mins(1), soon).await.expect("each brings 8, as if from a disk");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_held_pulls_gets_what_it_wants() {
    let node = OneNode::start().await;
    node.create_topic("T", 2).await;
    let pulls = (0..40).map(|n| {
        let mut header = held(0, &format!("t{n}"), 20_000);
        header.queue_id = n % 2;
        node.pull(header)
    });
    let (pulled, ()) = tokio::join!(futures::future::join_all(pulls), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for n in 0..40 {
            node.send("T", n % 2, &properties(&[("TAGS", &format!("t{n}"))]), &n.to_string()).await;
        }
    });
    for (n, pulled) in pulled.iter().enumerate() {
        assert_eq!((pulled.code, pulled.bodies()), (0, vec![n.to_string().as_str()]));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_while_a_pull_was_held_counts() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let start = Instant::now();
    let (code, ()) = tokio::join!(node.pull_code(held(0, "*", 20_000)), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let write_only = wire::CreateTopicRequest {
            topic: "T".into(),
            read_queue_nums: 1,
            write_queue_nums: 1,
            perm: 2,
            ..Default::default()
        };
        assert_eq!(node.ask(RequestCode::UPDATE_AND_CREATE_TOPIC, &write_only).await.code, 0);
        node.send("T", 0, "", "m").await;
    });
    assert_eq!(code, 16);
    assert!(start.elapsed() < SOON, "it was woken");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_pull_commits_once() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let group = "TOOLS_CONSUMER";
    let mut header = PullMessageRequest { consumer_group: group.into(), ..held(0, "*", 400) };
    header.sys_flag |= pull_flag::COMMIT_OFFSET;
    header.commit_offset = 5;
    let (code, ()) = tokio::join!(node.pull_code(header), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(super::offsets::stored(&node, group, "T", 0).await, Some(5));
        super::offsets::commit_two_way(&node, group, 0, 7).await;
    });
    assert_eq!(code, 19);
    assert_eq!(super::offsets::stored(&node, group, "T", 0).await, Some(7), "and not when its time was over");
    node.stop().await;
}
