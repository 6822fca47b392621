use proptest::prelude::*;

use super::*;

const HOUR: f64 = 3600.0;

fn resident(definition: usize, hours: f64, full: f64) -> Resident {
    Resident { definition, idle: hours * HOUR, bytes: 10, full, pinned: false }
}

fn count(max: usize) -> Limits {
    Limits { max_templates: Some(max), ..Limits::default() }
}

fn indices(evictions: &[Eviction]) -> Vec<usize> {
    evictions.iter().map(|e| e.index).collect()
}

/// Residents of one definition: each can be extended from all before it, in 10 seconds.
fn chain(of: usize) -> Bases<'static> {
    Box::new((0..of).map(|base| (base, 10.0)))
}

fn alone(_: usize) -> Bases<'static> {
    Box::new(std::iter::empty())
}

/// The second of two residents can be extended from the first.
fn one_base(of: usize) -> Bases<'static> {
    Box::new((of == 1).then_some((0, 5.0)).into_iter())
}

#[test]
fn of_equal_costs_the_longest_idle_goes() {
    let residents = [resident(0, 1.0, 100.0), resident(0, 50.0, 100.0), resident(0, 9.0, 100.0)];
    let plan = plan(&residents, &count(1), Room::default(), &alone);
    assert_eq!(indices(&plan), [1, 2]);
    assert_eq!((plan[0].rule, plan[0].loss), (Rule::Count, 100.0));
}

#[test]
fn what_can_be_extended_goes_before_what_needs_a_build_from_nothing() {
    // The one that is idle longest is the base of the other.
    let residents = [resident(0, 40.0, 100.0), resident(0, 20.0, 100.0)];
    let plan = plan(&residents, &count(1), Room::default(), &chain);
    assert_eq!(indices(&plan), [1]);
    assert_eq!(plan[0].loss, 10.0);
}

#[test]
fn a_base_is_dear_as_long_as_others_rest_on_it() {
    // Alone the base is the cheaper one to lose.
    let residents = [resident(0, 9.0, 30.0), resident(0, 2.0, 100.0), resident(1, 8.0, 30.0)];
    let first = |bases: BasesOf<'_, '_>| first_to_go(&residents, bases);
    assert_eq!(first(&alone), Some(0));
    assert_eq!(first(&one_base), Some(1));
    let mut pinned = residents.clone();
    pinned[1].pinned = true;
    let plan = plan(&pinned, &count(2), Room::default(), &one_base);
    assert_eq!(indices(&plan), [2]);
}

#[test]
fn for_bytes_the_large_go_first() {
    let mut residents = vec![resident(0, 5.0, 10.0); 3];
    residents[1].bytes = 1000;
    let limits = Limits { max_bytes: Some(500), ..Limits::default() };
    let plan = plan(&residents, &limits, Room::default(), &alone);
    assert_eq!(indices(&plan), [1]);
    assert_eq!(plan[0].rule, Rule::Size);
}

#[test]
fn room_is_made_for_what_is_to_come() {
    let residents = vec![resident(0, 5.0, 10.0); 3];
    let room = Room { templates: 1, bytes: 15 };
    let by_count = plan(&residents, &count(3), room, &alone);
    assert_eq!(by_count.len(), 1);
    let limits = Limits { max_bytes: Some(30), ..Limits::default() };
    assert_eq!(plan(&residents, &limits, room, &alone).len(), 2);
}

#[test]
fn the_newest_of_each_definition_stay() {
    let residents = [resident(0, 900.0, 1.0), resident(0, 800.0, 1.0), resident(1, 999.0, 1.0)];
    let limits = Limits { max_idle: Some(24.0 * HOUR), keep: 1, ..Limits::default() };
    let plan = plan(&residents, &limits, Room::default(), &alone);
    assert_eq!(indices(&plan), [0]);
    assert_eq!(plan[0].rule, Rule::Idle);
}

fn residents() -> impl Strategy<Value = Vec<Resident>> {
    let one = (0..3_usize, 0.0..1e7_f64, 0..1000_u64, 0.1..1e4_f64, any::<bool>());
    let one = one.prop_map(|(definition, idle, bytes, full, pinned)| Resident {
        definition,
        idle,
        bytes,
        full,
        pinned,
    });
    prop::collection::vec(one, 0..12)
}

fn limits() -> impl Strategy<Value = Limits> {
    let each = (
        prop::option::of(0..5000_u64),
        prop::option::of(0..12_usize),
        prop::option::of(0.0..1e7_f64),
        0..4_usize,
    );
    each.prop_map(|(max_bytes, max_templates, max_idle, keep)| Limits {
        max_bytes,
        max_templates,
        max_idle,
        keep,
    })
}

/// Costs of incremental builds: from fewer to more, by a matrix that may have holes.
fn extensions() -> impl Strategy<Value = Vec<Option<f64>>> {
    prop::collection::vec(prop::option::of(0.1..1e4_f64), 144)
}

/// Returns the residents that a plan may evict, computed in another way than the policy does.
fn touchable(residents: &[Resident], keep: usize) -> Vec<bool> {
    let newer = |i: usize| {
        let others = residents.iter().enumerate();
        others
            .filter(|(j, other)| {
                let me = &residents[i];
                other.definition == me.definition
                    && (other.idle < me.idle || (other.idle == me.idle && *j < i))
            })
            .count()
    };
    (0..residents.len()).map(|i| !residents[i].pinned && newer(i) >= keep).collect()
}

proptest! {
    #[test]
    fn plans_keep_their_promises(
        residents in residents(),
        limits in limits(),
        costs in extensions(),
        room in (0..3_usize, 0..2000_u64),
    ) {
        let extension = |base: usize, of: usize| match base < of {
            true => costs[base * 12 + of],
            false => None,
        };
        let room = Room { templates: room.0, bytes: room.1 };
        let made = plan(&residents, &limits, room, &cheapest_first(residents.len(), &extension));
        let touchable = touchable(&residents, limits.keep);
        let mut gone = vec![false; residents.len()];
        for eviction in &made {
            // No template twice, no pinned one, none of the newest.
            prop_assert!(!gone[eviction.index]);
            prop_assert!(touchable[eviction.index]);
            gone[eviction.index] = true;
            // The reported loss is the time of a rebuild from the templates that exist then.
            let full = residents[eviction.index].full;
            let bases = (0..residents.len())
                .filter(|&b| !gone[b] && residents[b].definition == residents[eviction.index].definition)
                .filter_map(|b| extension(b, eviction.index));
            prop_assert_eq!(eviction.loss, bases.fold(full, f64::min));
        }
        let left: Vec<usize> = (0..residents.len()).filter(|&i| !gone[i]).collect();
        let more = left.iter().any(|&i| touchable[i]);
        let bytes: u64 = left.iter().map(|&i| residents[i].bytes).sum();
        // A limit is exceeded only if nothing more may be evicted.
        if let Some(max) = limits.max_templates {
            prop_assert!(left.len() + room.templates <= max || !more);
        }
        if let Some(max) = limits.max_bytes {
            prop_assert!(bytes + room.bytes <= max || !more);
        }
        if let Some(max) = limits.max_idle {
            prop_assert!(left.iter().all(|&i| residents[i].idle <= max || !touchable[i]));
        }
        // No eviction without need: before its last step each rule was still broken.
        if let Some(last) = made.last() {
            let resident = &residents[last.index];
            let needed = match last.rule {
                Rule::Idle => limits.max_idle.is_some_and(|max| resident.idle > max),
                Rule::Count => limits.max_templates.is_some_and(|max| left.len() + 1 + room.templates > max),
                Rule::Size => limits.max_bytes.is_some_and(|max| bytes + resident.bytes + room.bytes > max),
            };
            prop_assert!(needed);
        }
        // The result is repeatable: no choice depends on anything except the input.
        prop_assert_eq!(made, plan(&residents, &limits, room, &cheapest_first(residents.len(), &extension)));
    }

    #[test]
    fn within_the_limits_nothing_goes(residents in residents()) {
        let limits = Limits {
            max_bytes: Some(residents.iter().map(|r| r.bytes).sum()),
            max_templates: Some(residents.len()),
            max_idle: Some(1e7),
            keep: 0,
        };
        prop_assert_eq!(plan(&residents, &limits, Room::default(), &alone), vec![]);
    }

    #[test]
    fn idling_longer_never_saves_a_template(mut residents in residents(), index in 0..12_usize, more in 1.0..1e6_f64) {
        prop_assume!(index < residents.len());
        for r in &mut residents {
            r.pinned = false;
        }
        // If templates depend on each other, others may be evicted first.
        if first_to_go(&residents, &alone) == Some(index) {
            residents[index].idle += more;
            prop_assert_eq!(first_to_go(&residents, &alone), Some(index));
        }
    }
}
