//! Streams of a node: echo, bulk and tickers, and the side that serves them.

use std::{
    str::FromStr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use iroh::endpoint::{Connection, RecvStream, SendStream};
use serde_json::{Value, json};
use tokio::task::{AbortHandle, JoinSet};

use super::now;

const ECHO: u8 = b'E';
const SINK: u8 = b'S';
const SOURCE: u8 = b'G';
const CHUNK: usize = 1 << 16;
const TENTH: Duration = Duration::from_millis(100);
const GAP_S: f64 = 0.2;

#[derive(Clone, Copy, PartialEq)]
pub enum Way {
    Up,
    Down,
    Echo,
}

impl FromStr for Way {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "up" => Self::Up,
            "down" => Self::Down,
            "echo" => Self::Echo,
            other => bail!("way: {other}"),
        })
    }
}

/// The bytes from an offset on: byte i is i modulo 251.
fn fill(buffer: &mut [u8], offset: u64) {
    let mut next = (offset % 251) as u8;
    for byte in buffer {
        *byte = next;
        next = if next == 250 { 0 } else { next + 1 };
    }
}

async fn write(send: &mut SendStream, total: u64) -> Result<()> {
    let (mut buffer, mut done) = (vec![0; CHUNK], 0);
    while done < total {
        let piece = (total - done).min(CHUNK as u64) as usize;
        fill(&mut buffer[..piece], done);
        send.write_all(&buffer[..piece]).await?;
        done += piece as u64;
    }
    send.finish()?;
    Ok(())
}

/// Read and check a stream to its end; how many bytes it had.
async fn read(recv: &mut RecvStream, mut got: impl FnMut(usize)) -> Result<u64> {
    let (mut wanted, mut total) = (vec![], 0);
    while let Some(chunk) = recv.read_chunk(CHUNK).await? {
        wanted.resize(chunk.len(), 0);
        fill(&mut wanted, total);
        if chunk[..] != wanted[..] {
            recv.stop(1u32.into())?;
            bail!("wrong content behind byte {total}");
        }
        total += chunk.len() as u64;
        got(chunk.len());
    }
    Ok(total)
}

/// Serve the streams that the other side opens.
pub async fn serve(conn: Connection) {
    while let Ok((send, recv)) = conn.accept_bi().await {
        tokio::spawn(async move {
            if let Err(error) = serve_one(send, recv).await {
                eprintln!("stream: {error:#}");
            }
        });
    }
}

async fn serve_one(mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let mut order = [0];
    recv.read_exact(&mut order).await?;
    match order[0] {
        ECHO => {
            while let Some(chunk) = recv.read_chunk(CHUNK).await? {
                send.write_chunk(chunk).await?;
            }
            send.finish()?;
        }
        SINK => match read(&mut recv, |_| {}).await {
            Ok(total) => {
                send.write_all(&total.to_be_bytes()).await?;
                send.finish()?;
            }
            Err(error) => {
                send.reset(1u32.into())?;
                return Err(error);
            }
        },
        SOURCE => {
            let mut size = [0; 8];
            recv.read_exact(&mut size).await?;
            write(&mut send, u64::from_be_bytes(size)).await?;
        }
        other => bail!("order {other}"),
    }
    send.stopped().await?; // until all has arrived
    Ok(())
}

pub async fn echo(conn: &Connection, bytes: u64) -> Result<()> {
    one(conn.clone(), Way::Echo, bytes, |_| {}).await
}

async fn one(conn: Connection, way: Way, bytes: u64, got: impl FnMut(usize)) -> Result<()> {
    let (mut send, mut recv) = conn.open_bi().await?;
    let came = match way {
        Way::Up => {
            send.write_all(&[SINK]).await?;
            write(&mut send, bytes).await?;
            let mut answer = [0; 8];
            recv.read_exact(&mut answer).await?;
            u64::from_be_bytes(answer)
        }
        Way::Down => {
            send.write_all(&[SOURCE]).await?;
            send.write_all(&bytes.to_be_bytes()).await?;
            send.finish()?;
            read(&mut recv, got).await?
        }
        Way::Echo => {
            let sending = async {
                send.write_all(&[ECHO]).await?;
                write(&mut send, bytes).await
            };
            tokio::try_join!(sending, read(&mut recv, got))?.1
        }
    };
    if came != bytes {
        bail!("{came} of {bytes} bytes came");
    }
    Ok(())
}

/// A transfer of `bytes` on each stream, and when they came.
pub async fn bulk(conn: &Connection, way: Way, bytes: u64, streams: u64) -> Result<Value> {
    let started = Instant::now();
    let tenths = Arc::new(Mutex::new(vec![]));
    let mut work = JoinSet::new();
    for _ in 0..streams {
        let tenths = tenths.clone();
        let got = move |count: usize| {
            let index = (started.elapsed().as_secs_f64() / TENTH.as_secs_f64()) as usize;
            let mut tenths = tenths.lock().expect("no panic");
            if tenths.len() <= index {
                tenths.resize(index + 1, 0);
            }
            tenths[index] += count;
        };
        work.spawn(one(conn.clone(), way, bytes, got));
    }
    while let Some(end) = work.join_next().await {
        end??;
    }
    let took = started.elapsed().as_secs_f64();
    let tenths = std::mem::take(&mut *tenths.lock().expect("no panic"));
    Ok(json!({"took": took, "tenths": tenths}))
}

#[derive(Default)]
struct Ticks {
    sent: u64,
    received: u64,
    last: f64,
    gaps: Vec<(f64, f64)>,
    longest: (f64, f64),
    wrong: Option<String>,
}

impl Ticks {
    /// An echo has come, or the end.
    fn note(&mut self) {
        let (t, gap) = (now(), now() - self.last);
        if gap > GAP_S {
            self.gaps.push((self.last, gap));
        }
        if gap > self.longest.1 {
            self.longest = (self.last, gap);
        }
        self.last = t;
    }
}

/// Numbers written at an interval, and when their echoes came.
pub struct Ticker {
    ticks: Arc<Mutex<Ticks>>,
    writer: AbortHandle,
    reader: AbortHandle,
}

impl Ticker {
    pub async fn start(conn: &Connection, interval: Duration) -> Result<Self> {
        let (mut send, mut recv) = conn.open_bi().await?;
        send.write_all(&[ECHO]).await?;
        let ticks = Arc::new(Mutex::new(Ticks {
            last: now(),
            ..Default::default()
        }));
        let shared = ticks.clone();
        let writer = tokio::spawn(async move {
            let mut clock = tokio::time::interval(interval);
            for number in 0u64.. {
                clock.tick().await;
                if send.write_all(&number.to_be_bytes()).await.is_err() {
                    break;
                }
                shared.lock().expect("no panic").sent += 1;
            }
        });
        let shared = ticks.clone();
        let reader = tokio::spawn(async move {
            let mut number = [0; 8];
            for wanted in 0u64.. {
                if let Err(error) = recv.read_exact(&mut number).await {
                    shared.lock().expect("no panic").wrong = Some(format!("{error:#}"));
                    break;
                }
                let mut ticks = shared.lock().expect("no panic");
                if u64::from_be_bytes(number) != wanted {
                    ticks.wrong = Some(format!("{number:?} instead of {wanted}"));
                    break;
                }
                ticks.received += 1;
                ticks.note();
            }
        });
        Ok(Self {
            ticks,
            writer: writer.abort_handle(),
            reader: reader.abort_handle(),
        })
    }

    /// Write no more, wait for the echoes that are under way, and tell.
    pub async fn stop(self, limit: Duration) -> Value {
        self.writer.abort();
        let until = Instant::now() + limit;
        loop {
            if let Some(told) = self.end(Instant::now() > until) {
                self.reader.abort();
                return told;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What there is to tell when all echoes have come, or when no more are waited for.
    fn end(&self, now: bool) -> Option<Value> {
        let mut ticks = self.ticks.lock().expect("no panic");
        let complete = ticks.received >= ticks.sent || ticks.wrong.is_some();
        if ticks.received < ticks.sent && (now || complete) {
            ticks.note();
        }
        (now || complete).then(|| {
            json!({"sent": ticks.sent, "received": ticks.received, "longest": ticks.longest,
                   "gaps": ticks.gaps, "error": ticks.wrong})
        })
    }
}
