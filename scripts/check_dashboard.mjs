// Looks at a daemon's page in a browser: at two widths, light and dark, with and without JavaScript; clicks
// through to a morning report; watches it freshen itself, and say so when the daemon is gone. Leaves screenshots.
//
//   npm install puppeteer-core @sparticuz/chromium axe-core   # in any folder, to be run from there
//   node .../scripts/check_dashboard.mjs http://127.0.0.1:7411/ SCREENSHOTS

import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const require = createRequire(join(process.cwd(), 'package.json'));
const load = async (name) => import(pathToFileURL(require.resolve(name)));
const chromium = (await load('@sparticuz/chromium')).default;
const puppeteer = (await load('puppeteer-core')).default;
const axe = readFileSync(require.resolve('axe-core'), 'utf8');

const [url, folder] = process.argv.slice(2);
if (!url || !folder) {
  console.error('give the address of the page and a folder for screenshots');
  process.exit(2);
}
mkdirSync(folder, { recursive: true });
const faults = [];
const check = (holds, what) => {
  console.log(`${holds ? 'fine' : 'FAULT'}: ${what}`);
  if (!holds) faults.push(what);
};

const browser = await puppeteer.launch({
  args: chromium.args,
  executablePath: await chromium.executablePath(),
  headless: 'shell',
});

async function open({ width, scheme, scripts = true, bypass = false }) {
  const page = await browser.newPage();
  page.on('console', (said) => {
    // The browser tells of the requests that fail while the network is cut.
    if (said.type() === 'error' && !said.text().includes('ERR_INTERNET_DISCONNECTED')) {
      check(false, `console: ${said.text()}`);
    }
  });
  page.on('pageerror', (error) => check(false, `script: ${error.message}`));
  await page.setViewport({ width, height: 900, deviceScaleFactor: 2 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
  await page.setJavaScriptEnabled(scripts);
  await page.setBypassCSP(bypass);
  const answer = await page.goto(url, { waitUntil: 'load' });
  check(answer.status() === 200, `${width} ${scheme}: the page comes`);
  return page;
}

for (const width of [1200, 400]) {
  for (const scheme of ['light', 'dark']) {
    const page = await open({ width, scheme });
    const { scroll, inner } = await page.evaluate(() => ({
      scroll: document.scrollingElement.scrollWidth,
      inner: window.innerWidth,
    }));
    check(scroll <= inner, `${width} ${scheme}: nothing juts out (${scroll} of ${inner})`);
    await page.screenshot({ path: join(folder, `${width}-${scheme}.png`), fullPage: true });
    await page.close();
    // The page's policy lets nothing else run on it.
    const looked = await open({ width, scheme, bypass: true });
    await looked.evaluate(axe);
    const { violations } = await looked.evaluate(() => window.axe.run());
    for (const { id, nodes } of violations) console.log(id, nodes.map((node) => node.html));
    check(violations.length === 0, `${width} ${scheme}: axe finds nothing`);
    await looked.close();
  }
}

const page = await open({ width: 1200, scheme: 'light' });
let asked = 0;
page.on('request', (request) => (asked += request.url() === url ? 1 : 0));
await new Promise((done) => setTimeout(done, 7000));
check(asked >= 2, `it freshens itself (${asked} times in 7 s)`);
const isStale = () => page.$eval('#stale', (stale) => !stale.hidden);
check(!(await isStale()), 'it is fresh');
await page.setOfflineMode(true);
await page.waitForFunction(() => !document.getElementById('stale').hidden, { timeout: 15000 });
check(await isStale(), 'it says when it is old');
await page.setOfflineMode(false);
await page.waitForFunction(() => document.getElementById('stale').hidden, { timeout: 15000 });
check(!(await isStale()), 'it is fresh again');
const link = await page.$('#nights a');
if (link) {
  await Promise.all([page.waitForNavigation(), link.click()]);
  const title = await page.$eval('h1', (title) => title.textContent);
  check(title.startsWith('Night '), `a report opens: ${title}`);
  await page.screenshot({ path: join(folder, 'report.png') });
  await page.goBack();
  check((await page.$('h1')) !== null, 'and back');
} else {
  console.log('no report yet');
}

const plain = await open({ width: 400, scheme: 'light', scripts: false });
check((await plain.$('h1')) !== null, 'without JavaScript the page says the same');
await browser.close();
console.log(faults.length === 0 ? 'all fine' : `${faults.length} faults`);
process.exit(faults.length === 0 ? 0 : 1);
