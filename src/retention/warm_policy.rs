//! Policy for warm clones: pure functions of the demand, the existing clones and the projects' settings, which return
//! the clones to drop and the number of missing ones.
//!
//! A warm clone that no command takes costs a copy and a drop for nothing. So a template gets none before it is used a
//! second time within about 40 minutes: most templates of a CI server are used by one job. From then on it gets as many
//! as were requested within about the last minute, at least `warm` and at most `warm_max`. A busy machine makes only
//! those at once for which a caller would probably wait; see [`should_wait`].
//!
//! As long as a template is requested, it keeps up to `warm_max` of them, and as many more as are in use: each of many
//! clients in a loop will want one again. After `QUIET` it keeps only `warm`, and none if another template of the same
//! definition was used since; after `FORGOTTEN` none.

/// Seconds without use after which a template is no longer in demand.
const QUIET: f64 = 10.0 * 60.0;
/// Seconds without use after which a template is kept without warm clones.
const FORGOTTEN: f64 = 60.0 * 60.0;

/// Recent uses that show that a template is used again and again; a single use counts 1 and less.
const AGAIN: f64 = 1.25;

/// Demand for a template: two sums over the past, in which everything counts less the longer ago it was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Clones that were requested: one of a minute ago counts 1/e.
    pub clones: f64,
    /// Uses, among them the build: one of half an hour ago counts 1/e. An announcement of requests counts 2.
    pub uses: f64,
}

impl Demand {
    /// Returns what is left of it after some seconds.
    pub fn after(self, seconds: f64) -> Self {
        Demand { clones: self.clones * (-seconds / 60.0).exp(), uses: self.uses * (-seconds / 1800.0).exp() }
    }

    /// Returns it after a request for some clones.
    pub fn with_request(self, clones: u32) -> Self {
        Demand { clones: self.clones + f64::from(clones), uses: self.uses + 1.0 }
    }
}

/// Warm clone, as the policy sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct WarmClone {
    /// Number of its template; `None` if that is gone or broken.
    pub template: Option<i64>,
    /// Index of its project among the shelves.
    pub project: usize,
    /// Seconds since its template was last used.
    pub idle: f64,
    /// Whether another template of the same definition was used since.
    pub superseded: bool,
    /// Its size in bytes.
    pub bytes: u64,
    /// Number of clones of its template that programs use now, and release when they end at the latest.
    pub in_use: i64,
}

/// Settings and sizes of one project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shelf {
    /// Number of warm clones of a template that is not in demand: `[clone] warm`.
    pub few: i64,
    /// Number of warm clones of a template that is in demand: `[clone] warm_max`.
    pub many: i64,
    /// Limit for the bytes of templates and warm clones together: `[eviction] max_size`; `None` is no limit.
    pub max_bytes: Option<u64>,
    /// Bytes of its templates, and of what it is about to add.
    pub used: u64,
}

/// Rule by which a warm clone is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Its template is gone.
    Template,
    /// Its template is no longer used.
    Idle,
    /// There are more than its project wants of that template.
    Count,
    /// Its project has no room for it.
    Size,
}

/// Returns the rule by which each of the warm clones is dropped; `None` if it is kept. The caller sorts `clones`:
/// those of the template that was used last come first, and for each template the oldest ones.
pub fn spare(clones: &[WarmClone], shelves: &[Shelf]) -> Vec<Option<Rule>> {
    let mut used: Vec<u64> = shelves.iter().map(|shelf| shelf.used).collect();
    let mut seen: Vec<(i64, i64)> = Vec::new();
    let judge = |clone: &WarmClone| {
        let Some(template) = clone.template else {
            return Some(Rule::Template);
        };
        let shelf = &shelves[clone.project];
        used[clone.project] = used[clone.project].saturating_add(clone.bytes);
        let nth = match seen.iter_mut().find(|(of, _)| *of == template) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                seen.push((template, 1));
                1
            }
        };
        let quiet = clone.idle > QUIET;
        if clone.idle > FORGOTTEN || quiet && clone.superseded {
            Some(Rule::Idle)
        } else if nth > if quiet { shelf.few } else { shelf.many.saturating_add(clone.in_use) } {
            Some(Rule::Count)
        } else if shelf.max_bytes.is_some_and(|max| used[clone.project] > max) {
            Some(Rule::Size)
        } else {
            None
        }
    };
    clones.iter().map(judge).collect()
}

/// Returns after how many seconds without use a template's warm clones may be spare, counted from now; `None` if all
/// of them are. `idle`: the seconds without use until now.
pub fn next_look(idle: f64) -> Option<f64> {
    [QUIET, FORGOTTEN].into_iter().find(|limit| idle <= *limit).map(|limit| limit - idle)
}

/// Returns the number of missing warm clones of one template. `warm`: the existing ones; `bytes`: the size of one
/// clone.
pub fn missing(demand: Demand, warm: i64, bytes: u64, shelf: &Shelf) -> i64 {
    let wanted = match demand.uses < AGAIN {
        true => 0,
        false => (demand.clones.ceil() as i64).clamp(shelf.few, shelf.many.max(shelf.few)),
    };
    let room = match shelf.max_bytes {
        Some(max) if bytes > 0 => {
            let copies = max.saturating_sub(shelf.used) / bytes;
            i64::try_from(copies).unwrap_or(i64::MAX)
        }
        Some(_) | None => i64::MAX,
    };
    (wanted - warm).min(room).max(0)
}

/// Returns whether the next warm clone should wait for a quieter moment: if more processes run than there are cores,
/// and those that exist are as many as were requested within about the last minute, so that no caller is likely to
/// wait for this one.
pub fn should_wait(demand: &Demand, stocked: i64, running: usize, cores: usize) -> bool {
    running > cores && stocked as f64 >= demand.clones
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(template: i64, idle: f64) -> WarmClone {
        WarmClone { template: Some(template), project: 0, idle, superseded: false, bytes: 10, in_use: 0 }
    }

    fn often(clones: f64) -> Demand {
        Demand { clones, uses: 2.0 }
    }

    fn shelf() -> Shelf {
        Shelf { few: 1, many: 3, max_bytes: None, used: 100 }
    }

    #[test]
    fn as_many_stay_as_their_template_is_in_demand() {
        let four = |idle| vec![of(1, idle), of(1, idle), of(1, idle), of(1, idle)];
        let goes = |clones: &[WarmClone]| spare(clones, &[shelf()]);
        let count = Some(Rule::Count);
        assert_eq!(goes(&four(599.0)), [None, None, None, count]);
        assert_eq!(goes(&four(601.0)), [None, count, count, count]);
        assert_eq!(goes(&four(3601.0)), [Some(Rule::Idle); 4]);
        // Those who use one will want another.
        let busy: Vec<_> = four(599.0).into_iter().map(|clone| WarmClone { in_use: 1, ..clone }).collect();
        assert_eq!(goes(&busy), [None; 4]);
        // Each template has its own number.
        assert_eq!(goes(&[of(1, 601.0), of(2, 601.0), of(2, 601.0)]), [None, None, count]);
    }

    #[test]
    fn those_of_an_older_template_go_sooner() {
        let older = |idle| WarmClone { superseded: true, ..of(1, idle) };
        assert_eq!(spare(&[older(599.0), older(601.0)], &[shelf()]), [None, Some(Rule::Idle)]);
        let lost = WarmClone { template: None, ..of(1, 0.0) };
        assert_eq!(spare(&[lost], &[shelf()]), [Some(Rule::Template)]);
    }

    #[test]
    fn who_waits_looks_again_when_the_rules_change() {
        let spare = |idle| spare(&[of(1, idle), of(1, idle)], &[shelf()]).iter().flatten().count();
        let mut idle = 12.0;
        let mut seen = Vec::new();
        while let Some(pause) = next_look(idle) {
            assert_eq!(spare(idle + pause), spare(idle), "nothing changes before {pause}");
            idle += pause + 1.0;
            seen.push((idle, spare(idle)));
        }
        assert_eq!(seen, [(601.0, 1), (3601.0, 2)]);
    }

    #[test]
    fn what_has_no_room_goes_the_last_used_ones_last() {
        let full = Shelf { max_bytes: Some(120), ..shelf() };
        let clones = [of(1, 1.0), of(1, 1.0), of(2, 30.0)];
        assert_eq!(spare(&clones, std::slice::from_ref(&full)), [None, None, Some(Rule::Size)]);
        // Another project's bytes do not count.
        let other = WarmClone { project: 1, ..of(3, 1.0) };
        assert_eq!(spare(&[of(1, 1.0), of(1, 1.0), other], &[full, shelf()]), [None; 3]);
    }

    /// Replays requests of a day, each with its time in seconds and its number of clones, after a build at 0. Returns
    /// how many warm clones are missing after each of them if there is none.
    fn replay(requests: &[(f64, u32)]) -> Vec<i64> {
        let shelf = Shelf { few: 2, many: 8, ..shelf() };
        let (mut demand, mut before) = (Demand { clones: 0.0, uses: 1.0 }, 0.0);
        let mut wanted = Vec::new();
        for (at, clones) in requests {
            demand = demand.after(at - before).with_request(*clones);
            before = *at;
            wanted.push(missing(demand, 0, 10, &shelf));
        }
        wanted
    }

    #[test]
    fn a_template_that_is_used_once_gets_none() {
        let built = Demand { clones: 0.0, uses: 1.0 };
        assert_eq!(missing(built, 0, 10, &shelf()), 0);
        // One job of a pushed branch, and one more hours later, when a reviewer pushes a typo.
        assert_eq!(replay(&[(3.0 * 3600.0, 1)]), [0]);
        assert_eq!(replay(&[(3.0 * 3600.0, 1), (6.0 * 3600.0, 1), (9.0 * 3600.0, 1)]), [0, 0, 0]);
    }

    #[test]
    fn a_day_of_edits_and_tests() {
        let minutes = |minutes: &[f64]| minutes.iter().map(|m| (m * 60.0, 1)).collect::<Vec<_>>();
        // From the first run after the build on, since the build's own run is one.
        assert_eq!(replay(&minutes(&[1.0, 3.0, 4.0, 12.0, 14.0])), [2; 5]);
        // After lunch, too; the next morning from the second run on.
        assert_eq!(replay(&minutes(&[1.0, 3.0, 4.0, 8.0, 60.0, 900.0, 902.0])), [2, 2, 2, 2, 2, 0, 2]);
    }

    /// Seconds between the commits of 26 November 2026 to this project, a long day of several people. Each followed a test
    /// run, which is taken for the request of one clone.
    #[rustfmt::skip]
    const DAY: [u16; 256] = [
        562, 521, 143, 279, 93, 213, 19, 161, 264, 11, 41, 194, 179, 44, 121, 137, 402, 41, 513, 697, 71, 9,
        258, 4, 93, 252, 26, 247, 79, 52, 366, 11, 59, 225, 1055, 145, 213, 38, 13, 344, 189, 546, 1, 115, 114,
        192, 136, 207, 82, 184, 29, 224, 42, 40, 1450, 247, 180, 984, 59, 272, 694, 381, 155, 64, 115, 296, 58,
        81, 333, 98, 89, 51, 131, 27, 108, 45, 302, 12, 114, 67, 199, 224, 68, 31, 97, 191, 14, 32, 64, 288, 17,
        447, 332, 191, 1550, 71, 71, 562, 962, 1038, 25, 73, 327, 85, 142, 188, 27, 69, 112, 421, 39, 5, 153,
        258, 60, 106, 53, 176, 45, 145, 46, 60, 263, 28, 151, 135, 321, 183, 10, 54, 367, 21, 40, 98, 205, 180,
        309, 462, 212, 188, 105, 138, 243, 204, 238, 1165, 243, 187, 405, 504, 668, 526, 700, 1136, 860, 989,
        197, 88, 352, 52, 462, 469, 320, 310, 268, 239, 354, 208, 474, 31, 22, 296, 172, 368, 202, 81, 67, 264,
        1059, 533, 1085, 602, 2422, 421, 337, 173, 525, 312, 190, 37, 163, 5, 212, 388, 322, 511, 404, 56, 346,
        378, 78, 82, 191, 449, 591, 1409, 87, 987, 583, 2801, 521, 27, 631, 694, 746, 142, 80, 5, 186, 212, 132,
        280, 402, 30, 189, 116, 25, 89, 484, 832, 668, 224, 1322, 1035, 1615, 2368, 76, 26, 128, 509, 584, 367,
        402, 325, 80, 36, 416, 393, 32, 708, 49, 1635, 145, 372, 1342, 636,
    ];

    #[test]
    fn on_a_recorded_day_nearly_all_find_a_warm_clone_and_few_are_dropped_unused() {
        let shelf = Shelf { few: 2, many: 8, ..shelf() };
        let mut demand = Demand { clones: 0.0, uses: 1.0 };
        let (mut stock, mut warm, mut made, mut unused) = (0_i64, 0, 0, 0);
        for gap in DAY.map(f64::from) {
            // A cleanup at the end of the pause.
            let clones: Vec<_> = (0..stock).map(|_| of(1, gap)).collect();
            let dropped = spare(&clones, std::slice::from_ref(&shelf)).iter().flatten().count() as i64;
            unused += dropped;
            stock -= dropped;
            if stock > 0 {
                warm += 1;
                stock -= 1;
            }
            demand = demand.after(gap).with_request(1);
            let more = missing(demand, stock, 10, &shelf);
            made += more;
            stock += more;
        }
        // All but the first; one clone for each request, and the two that are left.
        assert_eq!((warm, made, unused + stock), (DAY.len() as i64 - 1, DAY.len() as i64 + 1, 2));
    }

    #[test]
    fn shards_that_start_together_find_as_many_the_next_time() {
        let shards: Vec<_> = (0..12).map(|n| (600.0 + f64::from(n) * 0.5, 1)).collect();
        let wanted = replay(&shards);
        assert_eq!((wanted[0], wanted[2], wanted[11]), (2, 3, 8));
        // Workers of one job.
        assert_eq!(replay(&[(600.0, 4), (660.0, 1)]), [4, 3]);
    }

    #[test]
    fn a_busy_machine_makes_only_what_is_waited_for() {
        let demand = |clones| Demand { clones, uses: 5.0 };
        assert!(!should_wait(&demand(0.0), 0, 2, 2));
        assert!(should_wait(&demand(0.0), 0, 3, 2));
        assert!(!should_wait(&demand(1.2), 1, 9, 2));
        assert!(should_wait(&demand(1.2), 2, 9, 2));
    }

    #[test]
    fn as_many_are_missing_as_were_asked_for_within_the_limits() {
        assert_eq!(missing(often(0.0), 0, 10, &shelf()), 1);
        assert_eq!(missing(often(1.2), 0, 10, &shelf()), 2);
        assert_eq!(missing(often(9.0), 0, 10, &shelf()), 3);
        assert_eq!(missing(often(9.0), 2, 10, &shelf()), 1);
        assert_eq!(missing(often(0.0), 2, 10, &shelf()), 0);
        let nearly_full = Shelf { max_bytes: Some(115), ..shelf() };
        assert_eq!(missing(often(9.0), 0, 10, &nearly_full), 1);
        assert_eq!(missing(often(9.0), 0, 0, &nearly_full), 3);
        assert_eq!(missing(often(9.0), 0, 10, &Shelf { max_bytes: Some(50), ..shelf() }), 0);
    }
}
