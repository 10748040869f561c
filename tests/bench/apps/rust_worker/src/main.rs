//! The benches' activities for the public Rust SDK: `noop` does nothing, `work` computes for 5 ms.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kruxiaflow_worker::{ActivityContext, ActivityError, ActivityResult, Worker};
use serde_json::{json, Value};

const WORK: Duration = Duration::from_millis(5);
const TRIAL: u64 = 100_000;

fn compute(rounds: u64) -> u64 {
    (0..rounds).fold(0, |total, number| black_box(total ^ number.wrapping_mul(number)))
}

/// How many rounds take 5 ms when nothing disturbs: always the same amount, so that what takes longer is lost.
fn rounds() -> u64 {
    let timed = |_| {
        let begun = Instant::now();
        black_box(compute(TRIAL));
        begun.elapsed()
    };
    let best = (0..50).map(timed).min().expect("there are trials");
    (TRIAL as f64 * WORK.as_secs_f64() / best.as_secs_f64()) as u64
}

fn done(result: u64) -> Result<ActivityResult, ActivityError> {
    Ok(ActivityResult::value("result", json!(result)))
}

#[tokio::main]
async fn main() {
    let rounds = rounds();
    let worker = Worker::builder()
        .worker("py-std")
        .register_fn("noop", |_: Value, _: ActivityContext| async { done(0) })
        .register_fn("work", move |_: Value, _: ActivityContext| async move { done(compute(rounds)) })
        .build()
        .expect("the environment names the engine");
    worker.run_until_shutdown().await;
}
