'use strict';
// Reads the page again now and then and puts in place what changed. Without it the page is as good,
// only not fresh.
const EVERY_MS = 3000;
const stale = document.getElementById('stale');
let busy = false;

async function refresh() {
  if (busy || document.hidden) return;
  busy = true;
  try {
    const answer = await fetch('/', { cache: 'no-store', signal: AbortSignal.timeout(8000) });
    if (!answer.ok) throw new Error(String(answer.status));
    const next = new DOMParser().parseFromString(await answer.text(), 'text/html');
    for (const part of document.querySelectorAll('[data-part]')) {
      const fresh = next.getElementById(part.id);
      if (fresh && fresh.innerHTML !== part.innerHTML) {
        part.replaceChildren(...document.importNode(fresh, true).childNodes);
      }
    }
    if (document.title !== next.title) document.title = next.title;
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
  busy = false;
}

setInterval(refresh, EVERY_MS);
document.addEventListener('visibilitychange', refresh);
