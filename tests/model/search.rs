//! The searches themselves: every state of a scope, and what must and must not be found there.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::check::Check;
use crate::scope::{Scope, Sight};
use crate::scopes::{Size, custom, scopes};
use crate::world::{Action, State};

impl Model for Scope {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.begin()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        Self::actions(self, state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.next(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = Vec::new();
        macro_rules! always {
            ($($check:ident)*) => {$(
                properties.push(Property::always(Check::$check.name(), |_, state: &State| {
                    state.broken != Some(Check::$check)
                }));
            )*};
        }
        always!(ElectionSafety LogMatching LeaderCompleteness StateMachineSafety CommitNeverFalls
            DurableOnMajority SaidBeforeDurable FreshReads CoreAsserts);
        macro_rules! sometimes {
            ($($sight:ident)*) => {$(
                if self.sights.contains(&Sight::$sight) {
                    properties.push(Property::sometimes(Sight::$sight.name(), |_, state| {
                        Sight::$sight.is_in(state)
                    }));
                }
            )*};
        }
        sometimes!(Leader TwoLeaders Commit CommitOfTwoTerms CommitAfterCrash Install
            CommitAfterInstall Danger DangerOverwritten DangerCommitted ReadAnswered Healed HealedLeads);
        properties
    }
}

/// What a search saw.
#[derive(Debug)]
struct Seen {
    /// The first promise found broken, and the steps that lead there.
    broken: Option<(Check, String)>,
    unseen: Vec<&'static str>,
    is_exhausted: bool,
    seconds: f64,
}

/// Searches a scope, for so long at most.
fn search(scope: &Scope, limit: Duration) -> Seen {
    #[expect(clippy::disallowed_methods, reason = "a search says how long it took")]
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = scope.clone().checker().threads(threads).timeout(limit);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let took = began.elapsed();
    let broken = Check::ALL.iter().find_map(|check| {
        let path = checker.discovery(check.name())?;
        let steps: Vec<String> =
            path.into_actions().iter().map(|action| format!("{action:?}")).collect();
        Some((*check, steps.join(" ")))
    });
    let sights = scope.sights.iter().map(|sight| sight.name());
    let unseen = sights.filter(|sight| checker.discovery(sight).is_none()).collect();
    let (is_exhausted, seconds) = (broken.is_none() && took < limit, took.as_secs_f64());
    println!(
        "{}: {} states, {} generated, depth {}, {seconds:.1} s{}",
        scope.name,
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        if is_exhausted { "" } else { ", not exhausted" },
    );
    Seen { broken, unseen, is_exhausted, seconds }
}

/// How long one search may take: `RAFTQ_SECONDS`. A search that was given a time of its own need not come to its end.
fn limit() -> Option<Duration> {
    let seconds = std::env::var("RAFTQ_SECONDS").ok()?;
    Some(Duration::from_secs(seconds.parse().expect("RAFTQ_SECONDS is a number")))
}

/// The same, or long enough for every scope here.
fn limit_or_hour() -> Duration {
    limit().unwrap_or(Duration::from_secs(3600))
}

/// How far the searches go: `RAFTQ_MODEL`, small (with all tests), middle or large.
fn size() -> Size {
    match std::env::var("RAFTQ_MODEL").as_deref() {
        Ok("large") => Size::Large,
        Ok("middle") => Size::Middle,
        Ok("small") | Err(_) => Size::Small,
        Ok(other) => panic!("RAFTQ_MODEL={other}: small, middle or large"),
    }
}

/// Every scope keeps every promise, in every state; and everything that should be seen is seen.
#[test]
fn scopes_keep_every_promise() {
    let mut faults = Vec::new();
    for scope in scopes(size()) {
        let Seen { broken, unseen, is_exhausted, .. } = search(&scope, limit_or_hour());
        if let Some((check, steps)) = broken {
            faults.push(format!("{}: {} after {steps}", scope.name, check.name()));
        } else if is_exhausted || limit().is_none() {
            faults.extend(unseen.iter().map(|sight| format!("{}: never {sight}", scope.name)));
            if !is_exhausted {
                faults.push(format!("{}: not exhausted", scope.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A scope of one's own: `RAFTQ_SCOPE="start=led terms=3 messages=3"`.
#[test]
fn custom_scope_keeps_every_promise() {
    let Ok(words) = std::env::var("RAFTQ_SCOPE") else { return };
    let seen = search(&custom(&words), limit_or_hour());
    assert!(seen.broken.is_none(), "{:?} after {:.1} s", seen.broken, seen.seconds);
}

/// The bug named by `RAFTQ_BUG` is planted, and the search must go red.
#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bug_is_caught() {
    use raftq::planted::{Bug, plant};
    let Ok(name) = std::env::var("RAFTQ_BUG") else { return };
    let bug = Bug::ALL.into_iter().find(|bug| bug.name() == name).expect("no such bug");
    let scope = crate::scopes::planted(bug).expect("no scope shows this bug");
    plant(Some(bug));
    // An assert of the core that fails is one of the checks, and needs no backtrace.
    std::panic::set_hook(Box::new(|_| {}));
    let seen = search(&scope, limit_or_hour());
    drop(std::panic::take_hook());
    let Some((check, steps)) = seen.broken else { panic!("{name} was not caught") };
    println!("caught {name} by {} in {:.1} s: {steps}", check.name(), seen.seconds);
}

/// States that are known by the same print have the same futures: what the print leaves out decides
/// nothing. Two ways that lead to one print are followed one step further, and must lead to the same
/// prints again. `RAFTQ_STATES` says how many prints of each scope are looked at, from its beginning on.
#[test]
fn states_of_one_print_have_the_same_futures() {
    let asked = std::env::var("RAFTQ_STATES").ok();
    let states = asked.map_or(1_500, |text| text.parse().expect("RAFTQ_STATES is a number"));
    for scope in scopes(size()) {
        let futures = |state: &State| {
            let mut actions = Vec::new();
            scope.actions(state, &mut actions);
            let next = actions.into_iter().filter_map(|action| scope.next(state, action));
            let mut next: Vec<State> = next.collect();
            next.sort_by_key(|state| state.print);
            next.dedup_by_key(|state| state.print);
            next
        };
        let prints = |states: &[State]| states.iter().map(|next| next.print).collect::<Vec<_>>();
        let mut seen = BTreeMap::new();
        let mut queue = VecDeque::from([scope.begin()]);
        let mut compared = 0;
        while let Some(state) = queue.pop_front().filter(|_| seen.len() < states) {
            let next = futures(&state);
            match seen.get(&state.print) {
                None => {
                    seen.insert(state.print, prints(&next));
                    queue.extend(next);
                }
                Some(known) => {
                    compared += 1;
                    assert_eq!(*known, prints(&next), "{}: {state:#?}", scope.name);
                }
            }
        }
        println!("{}: {} prints, {compared} compared", scope.name, seen.len());
        assert!(compared > 10, "{}: {compared} states compared", scope.name);
    }
}
