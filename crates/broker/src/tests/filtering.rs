//! SQL92 filters: 11, 34, 46.

use std::time::Instant;

use wire::{Body, CheckClientRequestBody, SubscriptionData};

use super::clients::{heartbeat, request};
use super::*;

fn sql(expression: &str, offset: i64) -> PullMessageRequest {
    PullMessageRequest {
        expression_type: Some("SQL92".into()),
        subscription: Some(expression.into()),
        ..pull_header("T", 0, offset)
    }
}

async fn code_and_remark(node: &OneNode, header: PullMessageRequest) -> (i32, String) {
    let response = node.ask(RequestCode::PULL_MESSAGE, &header).await;
    (response.code, response.remark.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expression_chooses_exactly() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for (n, place) in (0..40).zip(["north", "south", "west"].into_iter().cycle()) {
        let given = properties(&[("a", &n.to_string()), ("place", place), ("TAGS", "x")]);
        node.send("T", 0, &given, &n.to_string()).await;
    }
    let wanted = |of: fn(i32) -> bool| (0..40).filter(|n| of(*n)).map(|n| n.to_string()).collect::<Vec<_>>();
    for (expression, want) in [
        ("a between 3 and 5", wanted(|n| (3..=5).contains(&n))),
        ("place = 'south' and a > 30", wanted(|n| n % 3 == 1 && n > 30)),
        ("place in ('north', 'west') and a < 5", wanted(|n| n % 3 != 1 && n < 5)),
        ("TAGS = 'x' and CLUSTER = 'c1' and a = 7", wanted(|n| n == 7)),
        ("b is null and place startswith 's' and not (a < 36)", wanted(|n| n % 3 == 1 && n >= 36)),
        ("a = 39", wanted(|n| n == 39)),
    ] {
        let pulled = node.pull(sql(expression, 0)).await;
        assert_eq!(
            (pulled.code, pulled.bodies()),
            (0, want.iter().map(String::as_str).collect()),
            "{expression}"
        );
        assert_eq!(pulled.header.next_begin_offset, 40, "{expression}");
    }
    let nothing = node.pull(sql("a > 100", 7)).await;
    assert_eq!((nothing.code, nothing.header.next_begin_offset), (20, 40), "looked at and passed by");
    // As many as are wanted, and no further.
    let few = node.pull(PullMessageRequest { max_msg_nums: 2, ..sql("place = 'west'", 0) }).await;
    assert_eq!((few.bodies(), few.header.next_begin_offset), (vec!["2", "5"], 6));
    let rest = node.pull(PullMessageRequest { max_msg_bytes: Some(1), ..sql("place = 'west'", 6) }).await;
    assert_eq!((rest.bodies(), rest.header.next_begin_offset), (vec!["8"], 11), "stops before the next one");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    for (expression, remark) in [
        ("a >", "Invalid MessageSelector: the expression ends where a value was expected at position 3"),
        (
            "a = 1 b = 2",
            "Invalid MessageSelector: b was found where the end of the expression was expected at position 6",
        ),
        ("", "Invalid MessageSelector: the expression ends where a value was expected at position 0"),
    ] {
        assert_eq!(code_and_remark(&node, sql(expression, 0)).await, (23, remark.to_owned()));
    }
    let other = PullMessageRequest { expression_type: Some("XPATH".into()), ..sql("a", 0) };
    let unknown = "The broker does not support consumer to filter message by XPATH";
    assert_eq!(code_and_remark(&node, other).await, (1, unknown.to_owned()));

    let check = |kind: &str, text: &str| {
        let body = CheckClientRequestBody {
            subscription_data: SubscriptionData::from_expression("T", kind, text, 1),
            ..CheckClientRequestBody::default()
        };
        RemotingCommand::request(RequestCode::CHECK_CLIENT_CONFIG).with_body(body.encode())
    };
    assert_eq!(node.call(check("TAG", "a = ")).await.code, 0);
    assert_eq!(node.call(check("SQL92", "a = 1")).await.code, 0);
    let response = node.call(check("SQL92", "a = ")).await;
    assert_eq!(response.code, 23);
    assert!(response.remark.unwrap().ends_with("at position 4"));
    assert_eq!(node.call(check("XPATH", "a = 1")).await.code, 1);
    assert!(node.call(check("SQL92", "a = 1")).await.version >= 232, "clients ask for it");
    node.stop().await;

    let node = OneNode::with(|config| config.groups[0].property_filter = false).await;
    node.create_topic("T", 1).await;
    let remark = "The broker does not support consumer to filter message by SQL92";
    assert_eq!(code_and_remark(&node, sql("a = 1", 0)).await, (1, remark.to_owned()));
    for text in ["a = 1", "a = "] {
        assert_eq!(node.call(check("SQL92", text)).await.code, 1);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_come_from_heartbeats() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    node.send("T", 0, &properties(&[("a", "1")]), "one").await;
    node.send("T", 0, &properties(&[("a", "2")]), "two").await;
    let pull = |version| PullMessageRequest {
        sys_flag: 0,
        subscription: None,
        sub_version: version,
        ..pull_header("T", 0, 0)
    };
    let subscribe = |expression: &str, version| {
        let mut data = heartbeat("c1", "g", "T");
        data.consumer_data_set[0].subscription_data_set =
            vec![SubscriptionData::from_expression("T", "SQL92", expression, version)];
        request(&data)
    };
    assert_eq!(node.pull_code(pull(1)).await, 24);
    assert_eq!(node.call(subscribe("a =", 1)).await.code, 0, "who else is in the heartbeat must not suffer");
    let (code, remark) = code_and_remark(&node, pull(1)).await;
    assert_eq!(code, 27);
    assert!(remark.ends_with("at position 3"), "{remark}");
    assert_eq!(node.call(subscribe("a = 2", 2)).await.code, 0);
    let pulled = node.pull(pull(2)).await;
    assert_eq!((pulled.code, pulled.bodies()), (0, vec!["two"]));
    assert_eq!(node.pull_code(pull(3)).await, 25);
    assert_eq!(node.call(subscribe("a <> 2", 3)).await.code, 0);
    assert_eq!(node.pull(pull(3)).await.bodies(), ["one"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pull_looks_at_so_many_messages() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let sends = (0..1700).map(|n| {
        let given = properties(&[("a", &(n / 1650).to_string())]);
        node.call(send_request("T", 0, &given, "m"))
    });
    for response in futures::future::join_all(sends).await {
        assert_eq!(response.code, 0, "{:?}", response.remark);
    }
    let mut offset = 0;
    for (code, next) in [(20, 800), (20, 1600), (0, 1700), (19, 1700)] {
        let pulled = node.pull(sql("a > 0 or b = 'x'", offset)).await;
        assert_eq!(pulled.code, code, "at {offset}");
        if code == 0 {
            // All that come with one pull; the next one goes on behind them.
            assert_eq!(pulled.messages.len(), 32);
            let last = pulled.messages.last().unwrap().queue_offset.to_wire();
            assert_eq!(pulled.header.next_begin_offset, last + 1);
            offset = last + 1;
            let rest = node.pull(sql("a > 0", offset)).await;
            assert_eq!(rest.header.next_begin_offset, next);
        } else {
            assert_eq!(pulled.header.next_begin_offset, next, "at {offset}");
        }
        offset = next;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_pull_is_woken_by_what_its_expression_wants() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let held = |expression: &str, ms| PullMessageRequest {
        sys_flag: pull_flag::SUBSCRIPTION | pull_flag::SUSPEND,
        suspend_timeout_millis: ms,
        ..sql(expression, 0)
    };
    let start = Instant::now();
    let send = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        for (a, body) in [("1", "not wanted"), ("x", "no number"), ("2", "wanted")] {
            node.send("T", 0, &properties(&[("a", a)]), body).await;
        }
    };
    let (pulled, never, ()) =
        tokio::join!(node.pull(held("a = 2", 60_000)), node.pull(held("a = 3", 1_000)), send);
    assert_eq!((pulled.code, pulled.bodies()), (0, vec!["wanted"]));
    assert!(start.elapsed() < SOON);
    assert!(start.elapsed() >= Duration::from_secs(1), "nothing came that the other one wants");
    assert_eq!(
        (never.code, never.header.next_begin_offset),
        (20, 3),
        "when its time is over, it learns how far it is"
    );
    node.stop().await;
}

/// An expression may take milliseconds for one message: a pull is answered with how far it came in its time.
#[tokio::test(flavor = "multi_thread")]
async fn one_pull_takes_so_long() {
    let node = OneNode::start().await;
    node.create_topic("T", 1).await;
    let long = "ab".repeat(12_000);
    // Fewer bytes than one pull looks at, and more time.
    for n in 0..160 {
        node.send("T", 0, &properties(&[("p", &long)]), &n.to_string()).await;
    }
    // Each looks through all of the property.
    let slow = vec!["p contains 'abc'"; 400].join(" or ");
    let pulled = node.pull(sql(&slow, 0)).await;
    let next = pulled.header.next_begin_offset;
    assert_eq!(pulled.code, 20);
    assert!((1..160).contains(&next), "{next}");
    let pulled = node.pull(sql(&slow, next)).await;
    assert!(pulled.header.next_begin_offset > next, "it gets on");
    node.stop().await;
}
