//! Open requests from outside: which replies are taken and which change nothing, when a request is late
//! and when it expires.

mod common;

use std::time::Duration;

use chacha20::ChaCha20Rng;
use common::{id, public};
use kadepy::dht::requests::{Announcement, Due, Full, Purpose, Question, Request, Requests};
use kadepy::wire::message::{Body, Message, Part, Trailer, TxId};
use kadepy::{Config, Endpoint, NodeId, Time};
use proptest::prelude::*;
use proptest::sample::Index;
use rand_core::{Rng, SeedableRng};

const TXID: TxId = TxId([0xC1, 0xC2, 0xC3, 0xC4, 0xC5, 0xC6, 0xC7, 0xC8]);
const TIMEOUT: Duration = Duration::from_secs(2);
const PONG: Body<'static> = Body::Pong;

fn requests() -> Requests {
    Requests::new(&Config::default())
}

fn at(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

fn just_before(at: Time) -> Time {
    Time::from_micros(at.as_micros() - 1)
}

fn txid(n: u64) -> TxId {
    TxId(n.to_be_bytes())
}

/// A request to node 1, whose id is known.
fn request(question: Question) -> Request {
    Request {
        to: public(1),
        id: Some(id(1)),
        question,
        purpose: Purpose::Nothing,
        sent: Time::ZERO,
        is_retry: false,
        pause: Duration::ZERO,
    }
}

fn ping() -> Request {
    request(Question::Ping)
}

fn reply(sender: NodeId, body: Body<'_>, txid: Option<TxId>) -> Message<'_> {
    Message::new(sender, body, txid.map(|txid| Trailer { txid: Some(txid), ..Trailer::default() }))
}

/// Whether a PONG of node 1 with this TXID is taken, from where replies without one are not.
fn takes_pong(requests: &mut Requests, now: Time, txid: TxId) -> bool {
    let taken = requests.answer(now, public(1), &reply(id(1), PONG, Some(txid)), false);
    requests.check_invariants();
    taken.is_some()
}

/// The request that a PONG without TXID is taken for, from where such are.
fn takes_legacy(requests: &mut Requests, from: Endpoint) -> Option<Request> {
    let taken = requests.answer(at(1), from, &reply(id(1), PONG, None), true);
    requests.check_invariants();
    taken.map(|(request, _)| request)
}

/// The short wait of a request, the first of those that are open.
fn short_wait(requests: &mut Requests, request: Request, known_rtt: Option<Duration>) -> Duration {
    requests.open(txid(77), request, known_rtt).expect("there is room");
    let wake = requests.next_wake().expect("an open request wakes");
    wake - request.sent
}

// Which replies are taken

#[test]
fn the_right_reply_is_taken_and_closes_its_request() {
    let mut requests = requests();
    requests.open(TXID, ping(), None).unwrap();
    assert!(requests.is_asking(public(1)));
    assert!(!requests.is_asking(public(0)) && !requests.is_asking(public(2)));
    let taken = requests.answer(at(30), public(1), &reply(id(1), PONG, Some(TXID)), false);
    assert_eq!(taken, Some((ping(), Duration::from_millis(30))));
    assert!(requests.is_empty() && !requests.is_asking(public(1)));
    assert_eq!(requests.next_wake(), None);
    assert_eq!(requests.smoothed_rtt(), Some(Duration::from_millis(30)));
}

#[test]
fn a_txid_counts_once() {
    let mut requests = requests();
    requests.open(TXID, ping(), None).unwrap();
    assert!(takes_pong(&mut requests, at(1), TXID));
    assert!(!takes_pong(&mut requests, at(1), TXID));
}

#[test]
fn a_wrong_reply_changes_nothing() {
    let right = reply(id(1), PONG, Some(TXID));
    let wrong = [
        ("address", public(2), right),
        ("port", public(1).with_port(4_001), right),
        ("transaction", public(1), reply(id(1), PONG, Some(txid(1)))),
        ("type", public(1), reply(id(1), Body::FoundNodes, Some(TXID))),
        ("id", public(1), reply(id(2), PONG, None)),
        ("all", public(2), reply(id(2), Body::FoundNodes, Some(txid(1)))),
    ];
    for trusts_legacy in [false, true] {
        let mut requests = requests();
        requests.open(TXID, ping(), None).unwrap();
        let wake = requests.next_wake();
        for (what, from, reply) in &wrong {
            assert_eq!(requests.answer(at(1), *from, reply, trusts_legacy), None, "wrong {what}");
            requests.check_invariants();
        }
        assert_eq!((requests.len(), requests.next_wake()), (1, wake));
        assert_eq!(requests.smoothed_rtt(), None);
        assert!(takes_pong(&mut requests, at(1), TXID));
    }
}

#[test]
fn a_reply_must_be_of_a_type_that_answers_and_about_the_same_topic() {
    let (asked, other) = (id(5), id(6));
    let bodies = [
        Body::Ping,
        Body::Pong,
        Body::FindNode { target: asked },
        Body::FoundNodes,
        Body::AnnouncePeer { topic: asked, port: 1 },
        Body::GetPeers { topic: asked },
        Body::Peers { topic: asked },
        Body::Peers { topic: other },
        Body::Announced { topic: asked },
        Body::Announced { topic: other },
        Body::Error { code: 3, text: "" },
        Body::Application { kind: 16, payload: &[] },
    ];
    let error = bodies[10];
    for (question, answers) in [
        (Question::Ping, vec![Body::Pong]),
        (Question::FindNode(asked), vec![Body::FoundNodes, error]),
        (
            Question::GetPeers(asked, Part::WHOLE),
            vec![Body::FoundNodes, Body::Peers { topic: asked }, error],
        ),
        (
            Question::Announce(Announcement { topic: asked, port: None, token: None }),
            vec![Body::Announced { topic: asked }, error],
        ),
    ] {
        for body in &bodies {
            for txid in [Some(TXID), None] {
                let mut requests = requests();
                requests.open(TXID, request(question), None).unwrap();
                let taken = requests.answer(at(1), public(1), &reply(id(1), *body, txid), true);
                assert_eq!(taken.is_some(), answers.contains(body), "{question:?}: {body:?}");
            }
        }
    }
}

#[test]
fn where_no_id_is_expected_any_is_taken() {
    let mut requests = requests();
    requests.open(TXID, Request { id: None, ..ping() }, None).unwrap();
    assert!(takes_pong(&mut requests, at(1), TXID));
}

/// Everything about these replies is right but the transaction.
#[test]
fn of_a_million_forged_replies_none_is_taken() {
    let mut requests = requests();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for _ in 0..1_000 {
        requests.open(TxId(rng.next_u64().to_be_bytes()), ping(), None).unwrap();
    }
    for _ in 0..1_000_000 {
        let forged = reply(id(1), PONG, Some(TxId(rng.next_u64().to_be_bytes())));
        assert_eq!(requests.answer(at(1), public(1), &forged, false), None);
    }
    assert_eq!(requests.len(), 1_000);
}

#[test]
fn at_the_cap_the_oldest_late_request_makes_room() {
    let mut requests = Requests::new(&Config { open_requests: 16, ..Config::default() });
    let sent = |n: u64| Request { sent: at(n), ..ping() };
    for n in 0..16 {
        assert_eq!(requests.open(txid(n), sent(n), None), Ok(None));
    }
    assert_eq!(requests.open(txid(16), sent(16), None), Err(Full), "none is late");
    assert_eq!(requests.len(), 16);

    let second = Time::ZERO + Duration::from_secs(1);
    while requests.due(second + Duration::from_millis(5)).is_some() {}
    requests.check_invariants();
    assert_eq!(requests.open(txid(16), sent(16), None), Ok(Some(sent(0))));
    requests.check_invariants();
    assert!(!takes_pong(&mut requests, at(17), txid(0)));
    assert!(takes_pong(&mut requests, at(17), txid(16)));
}

// Replies without a transaction

#[test]
fn a_reply_without_txid_is_taken_only_where_such_are_trusted() {
    let mut requests = requests();
    requests.open(TXID, ping(), None).unwrap();
    assert_eq!(requests.answer(at(1), public(1), &reply(id(1), PONG, None), false), None);
    assert_eq!(takes_legacy(&mut requests, public(1)), Some(ping()));
}

#[test]
fn a_trailer_without_txid_is_no_proof_either() {
    let mut requests = requests();
    requests.open(TXID, ping(), None).unwrap();
    let reply = Message::new(id(1), PONG, Some(Trailer::default()));
    assert_eq!(requests.answer(at(1), public(1), &reply, false), None);
}

#[test]
fn a_reply_without_txid_answers_the_oldest_request_of_its_type() {
    let mut requests = requests();
    let sent = |micros, question| Request { sent: Time::from_micros(micros), ..request(question) };
    requests.open(txid(4), sent(1, Question::FindNode(id(1))), None).unwrap();
    requests.open(txid(3), sent(2, Question::Ping), None).unwrap();
    requests.open(txid(2), sent(4, Question::Ping), None).unwrap();
    requests.open(txid(1), sent(3, Question::Ping), None).unwrap();
    for micros in [2, 3, 4] {
        assert_eq!(takes_legacy(&mut requests, public(1)), Some(sent(micros, Question::Ping)));
    }
    assert_eq!(takes_legacy(&mut requests, public(1)), None);
    assert_eq!(requests.len(), 1);
}

#[test]
fn a_reply_without_txid_proves_a_candidate_only_at_a_local_address() {
    let local = Endpoint::new([192, 168, 0, 1], 4_000);
    for (to, taken) in [(public(1), false), (local, true)] {
        let mut requests = requests();
        let candidate = Request { to, purpose: Purpose::Candidate, ..ping() };
        requests.open(TXID, candidate, None).unwrap();
        assert_eq!(takes_legacy(&mut requests, to), taken.then_some(candidate));
        let with_txid = reply(id(1), PONG, Some(TXID));
        assert_eq!(requests.answer(at(1), to, &with_txid, true).is_some(), !taken);
    }
}

#[test]
fn a_reply_without_txid_must_come_from_where_the_request_went() {
    let mut requests = requests();
    requests.open(TXID, ping(), None).unwrap();
    assert_eq!(takes_legacy(&mut requests, public(0)), None);
    assert_eq!(takes_legacy(&mut requests, public(2)), None);
    assert_eq!(takes_legacy(&mut requests, public(1).with_port(4_001)), None);
    let of_another = reply(id(2), PONG, None);
    assert_eq!(requests.answer(at(1), public(1), &of_another, true), None);
    assert_eq!(requests.len(), 1);
}

#[test]
fn whoever_echoed_a_txid_must_always_do_so() {
    let mut requests = requests();
    let other_port = public(1).with_port(4_001);
    for (n, to) in (0..).zip([public(1), public(1), other_port]) {
        requests.open(txid(n), Request { to, ..ping() }, None).unwrap();
    }
    let echo = reply(id(1), PONG, Some(txid(0)));
    assert!(requests.answer(at(1), public(1), &echo, true).is_some());
    assert_eq!(takes_legacy(&mut requests, public(1)), None);
    assert!(takes_legacy(&mut requests, other_port).is_some(), "another endpoint");
}

#[test]
fn a_forged_echo_does_not_stop_replies_without_txid() {
    let mut requests = requests();
    requests.open(TXID, ping(), None).unwrap();
    let forged = reply(id(1), PONG, Some(txid(1)));
    assert_eq!(requests.answer(at(1), public(1), &forged, true), None);
    assert_eq!(takes_legacy(&mut requests, public(1)), Some(ping()));
}

#[test]
fn the_latest_2048_endpoints_that_echoed_are_remembered() {
    let mut requests = requests();
    for n in 0..2_048 {
        requests.open(TXID, Request { to: public(n), ..ping() }, None).unwrap();
        let echo = reply(id(1), PONG, Some(TXID));
        assert!(requests.answer(at(1), public(n), &echo, true).is_some());
    }
    requests.open(TXID, Request { to: public(0), ..ping() }, None).unwrap();
    assert_eq!(takes_legacy(&mut requests, public(0)), None);
}

// How long to wait

#[test]
fn a_request_is_late_then_expired() {
    let mut requests = requests();
    requests.open(TXID, ping(), None).unwrap();
    let (late, expired) = (at(1_000), at(2_000));
    assert_eq!(requests.next_wake(), Some(late));
    assert_eq!(requests.due(just_before(late)), None);
    assert_eq!(requests.due(late), Some(Due::Late(ping())));
    requests.check_invariants();
    assert_eq!(requests.next_wake(), Some(expired));
    assert_eq!(requests.due(just_before(expired)), None);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests.due(expired), Some(Due::Expired(ping())));
    requests.check_invariants();
    assert_eq!((requests.due(expired), requests.len()), (None, 0));
}

#[test]
fn an_answer_counts_until_its_request_expires() {
    let mut requests = requests();
    for n in [1, 2] {
        requests.open(txid(n), ping(), None).unwrap();
        assert!(matches!(requests.due(at(1_000)), Some(Due::Late(_))));
    }
    assert_eq!(requests.due(just_before(at(2_000))), None);
    assert!(takes_pong(&mut requests, just_before(at(2_000)), txid(1)));
    assert!(matches!(requests.due(at(2_000)), Some(Due::Expired(_))));
    assert!(!takes_pong(&mut requests, at(2_000), txid(2)));
}

#[test]
fn of_an_operation_the_32_questions_that_expired_last_may_still_be_answered() {
    let mut requests = requests();
    let of = |op| Request { purpose: Purpose::Op(op), ..ping() };
    requests.open(txid(0), of(1), None).unwrap();
    for n in 1..=33 {
        requests.open(txid(n), Request { sent: at(n), ..of(2) }, None).unwrap();
    }
    while requests.due(at(10_000)).is_some() {}
    requests.check_invariants();
    assert_eq!(requests.len(), 33);
    for (n, is_taken) in [(0, true), (1, false), (2, true), (33, true)] {
        assert_eq!(takes_pong(&mut requests, at(10_000), txid(n)), is_taken, "question {n}");
    }
    requests.end(2);
    requests.check_invariants();
    assert!(requests.is_empty());
}

#[test]
fn an_answer_that_waited_through_a_suspend_says_nothing() {
    let mut requests = requests();
    requests.open(TXID, ping(), None).unwrap();
    assert!(!takes_pong(&mut requests, at(3_600_000), TXID));
    assert_eq!(requests.smoothed_rtt(), None);
    assert_eq!(requests.due(at(3_600_000)), Some(Due::Late(ping())));
}

#[test]
fn a_request_that_was_overlooked_is_late_before_it_expires() {
    let mut requests = requests();
    requests.open(TXID, ping(), None).unwrap();
    let far = at(60_000);
    assert_eq!(requests.due(far), Some(Due::Late(ping())));
    assert_eq!(requests.due(far), Some(Due::Expired(ping())));
    assert_eq!(requests.due(far), None);
}

#[test]
fn where_nothing_is_measured_the_short_wait_is_twice_the_longest() {
    assert_eq!(short_wait(&mut requests(), ping(), None), Duration::from_secs(1));
}

#[test]
fn the_short_wait_is_three_round_trips_within_bounds_but_no_less_than_one_and_a_half() {
    for (rtt_millis, wait_millis) in [(1, 50), (17, 51), (100, 300), (166, 498), (900, 1_350)] {
        let known_rtt = Some(Duration::from_millis(rtt_millis));
        let wait = short_wait(&mut requests(), ping(), known_rtt);
        assert_eq!(wait, Duration::from_millis(wait_millis));
    }
}

/// RFC 6298, 2.2: after the first measurement R the timeout is R + 4 · R/2.
#[test]
fn for_an_unknown_contact_the_short_wait_follows_rfc_6298() {
    let mut requests = requests();
    requests.open(TXID, ping(), None).unwrap();
    assert!(takes_pong(&mut requests, at(100), TXID));
    assert_eq!(short_wait(&mut requests, ping(), None), Duration::from_millis(300));
}

#[test]
fn a_repetition_is_waited_for_no_longer_and_nothing_beyond_the_timeout() {
    let retry = Request { is_retry: true, ..ping() };
    let known_rtt = Some(Duration::from_millis(100));
    assert_eq!(short_wait(&mut requests(), retry, known_rtt), Duration::from_millis(300));
    let impatient = Config { request_timeout: Duration::from_millis(70), ..Config::default() };
    let wait = short_wait(&mut Requests::new(&impatient), retry, known_rtt);
    assert_eq!(wait, Duration::from_millis(70));
}

// Whatever happens

#[derive(Clone, Debug)]
enum Step {
    Open { to: u16, rtt: Option<u64>, is_retry: bool },
    Answer { which: Index, with_txid: bool },
    Wait { millis: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u16..4, prop::option::of(0_u64..1_500), any::<bool>())
            .prop_map(|(to, rtt, is_retry)| Step::Open { to, rtt, is_retry }),
        2 => (any::<Index>(), any::<bool>())
            .prop_map(|(which, with_txid)| Step::Answer { which, with_txid }),
        2 => (0_u64..700).prop_map(|millis| Step::Wait { millis }),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn every_request_is_answered_or_expires_once(steps in steps()) {
        let mut requests = requests();
        let mut now = Time::ZERO;
        let (mut opened, mut answered, mut late, mut expired) = (Vec::new(), 0, 0, 0);
        for step in steps.into_iter().chain([Step::Wait { millis: 10_000 }]) {
            match step {
                Step::Open { to, rtt, is_retry } => {
                    let txid = txid(opened.len() as u64);
                    let request = Request { to: public(to), sent: now, is_retry, ..ping() };
                    requests.open(txid, request, rtt.map(Duration::from_millis)).unwrap();
                    opened.push((txid, request.to));
                }
                Step::Answer { which, with_txid } if !opened.is_empty() => {
                    let (txid, from) = *which.get(&opened);
                    let reply = reply(id(1), PONG, with_txid.then_some(txid));
                    if let Some((request, round_trip)) = requests.answer(now, from, &reply, true) {
                        prop_assert_eq!((request.to, request.sent + round_trip), (from, now));
                        prop_assert!(round_trip < TIMEOUT);
                        answered += 1;
                    }
                }
                Step::Answer { .. } => {}
                Step::Wait { millis } => now = now + Duration::from_millis(millis),
            }
            while let Some(due) = requests.due(now) {
                match due {
                    Due::Late(request) => {
                        prop_assert!(now > request.sent);
                        late += 1;
                    }
                    Due::Expired(request) => {
                        prop_assert!(now >= request.sent + TIMEOUT);
                        expired += 1;
                    }
                }
            }
            requests.check_invariants();
            prop_assert!(requests.next_wake().is_none_or(|wake| wake > now));
            prop_assert_eq!(requests.len() + answered + expired, opened.len());
        }
        prop_assert!(requests.is_empty());
        prop_assert!(expired <= late && late <= opened.len());
    }
}
