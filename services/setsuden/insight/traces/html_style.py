"""The look of a trace's page: light and dark, for a screen, a phone and paper. No script."""

STYLE = """
:root{color-scheme:light dark;--ink:#17202b;--soft:#566474;--line:#dde4ea;--paper:#f6f8fa;
--card:#fff;--edge:#12806a;--nats:#7a55c7;--worker:#c9610f;--other:#5b7083;--path:#17202b;
--bad:#b3261e;--badbg:#fdeceb;--track:#eef2f5;--good:#12806a}
@media(prefers-color-scheme:dark){:root{--ink:#e9eef3;--soft:#9eacb9;--line:#2b3642;
--paper:#0f151b;--card:#171f28;--edge:#3fb896;--nats:#a98bea;--worker:#f0954b;--other:#8ea2b5;
--path:#f4f7fa;--bad:#ff8a80;--badbg:#3a1d1d;--track:#202a35;--good:#3fb896}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:70rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:.15rem 0 .4rem;letter-spacing:-.01em}
h2{font-size:1.05rem;margin:0 0 .2rem}
.title{text-wrap:balance;font-size:1.75rem;line-height:1.2;margin:.15rem 0 .4rem;
letter-spacing:-.01em}
h3{font-size:.95rem;margin:0}
p{margin:.3rem 0}a{color:inherit}
.eyebrow{color:var(--soft);font-size:.8rem;letter-spacing:.06em;text-transform:uppercase;margin:0}
.meta,.note{color:var(--soft);font-size:.86rem}
code,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.86em;
overflow-wrap:anywhere}
.index+article,article+article{margin-top:3.5rem;padding-top:2rem;border-top:3px solid var(--line)}
section{background:var(--card);border:1px solid var(--line);border-radius:.7rem;
padding:1.1rem 1.2rem 1.2rem;margin-top:1rem}
section>.note:first-of-type{margin:0 0 .8rem}
.cards{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:.8rem;margin-top:1.2rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.7rem;padding:.8rem 1rem}
.card b{display:block;font-size:1.5rem;line-height:1.25;font-weight:650;
font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.card span{color:var(--soft);font-size:.84rem;display:block}
.badge{display:inline-block;border:1px solid var(--line);border-radius:1rem;padding:.05rem .6rem;
font-size:.78rem;color:var(--soft);background:var(--card);margin:.15rem .3rem .15rem 0}
.badge.bad,.mark.bad{color:var(--bad);background:var(--badbg);border-color:transparent}
.badge.hot{color:var(--worker);border-color:currentColor}
.edge-agent{--c:var(--edge)}.nats{--c:var(--nats)}.worker{--c:var(--worker)}.other{--c:var(--other)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{color:var(--soft);font-weight:600;font-size:.8rem;text-align:left}
th,td{padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child>td{border-bottom:0}
.r{text-align:right;white-space:nowrap}th.r,td.r{padding-right:0;padding-left:.6rem}
.wf td{border:0;padding-top:.16rem;padding-bottom:.16rem;vertical-align:middle}
.wf tr:hover td{background:var(--track)}
.wf .n{width:1%;white-space:nowrap;padding-left:calc(var(--d)*1rem);padding-right:1rem}
.wf th.r,.wf td.r{width:1%}
.wf .n i{font-style:normal;color:var(--soft);font-size:.78rem;margin-left:.45rem}
.wf .n b{font-weight:500}.wf .on .n b{font-weight:650}
.dot{display:inline-block;width:.55rem;height:.55rem;border-radius:50%;background:var(--c);
margin-right:.45rem}
.track{position:relative;height:1.35rem;min-width:8rem}
.axis{position:relative;height:1.2rem;font-size:.74rem;color:var(--soft);font-weight:400}
.axis span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.axis span:first-child{transform:none}.axis span:last-child{transform:translateX(-100%)}
.grid{position:absolute;top:-.16rem;bottom:-.16rem;width:1px;background:var(--line)}
.bar,.cp,.q,.ev{position:absolute;min-width:2px}
.bar{top:.3rem;height:.75rem;border-radius:.2rem;background:var(--c);opacity:.38}
.on .bar{opacity:.5}.bar.fail{outline:1.5px solid var(--bad);outline-offset:1px}
.cp{top:.3rem;height:.75rem;background:var(--c);border-bottom:3px solid var(--path);
border-radius:.1rem}
.q{top:.5rem;height:.35rem;background:repeating-linear-gradient(115deg,var(--c) 0 2px,
transparent 2px 6px);
opacity:.65}
.ev{top:.16rem;width:2px;height:1.03rem;background:var(--ink);opacity:.75}
.mark{display:inline-block;font-size:.74rem;color:var(--soft);border:1px solid var(--line);
border-radius:.3rem;padding:0 .35rem;margin-left:.35rem;white-space:nowrap}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:.9rem 0 0;padding:0;list-style:none;
font-size:.8rem;color:var(--soft)}
.legend i{display:inline-block;position:relative;width:1.5rem;height:.7rem;margin-right:.4rem;
vertical-align:-.06rem;border-radius:.15rem}
.jr{display:grid;grid-template-columns:13rem 1fr 11rem;gap:0 1rem;align-items:center;
padding:.28rem 0}
.jr .n i{font-style:normal;color:var(--soft);font-size:.78rem;margin-left:.45rem}
.jr .n b{font-weight:600}.jt{position:relative;height:1.5rem;background:var(--track);
border-radius:.25rem}
.jb,.jw{position:absolute;min-width:2px}.jb{top:0;bottom:0;background:var(--c);border-radius:.25rem}
.jb.hollow{background:none;border:2px dashed var(--c)}
.jw{top:.4rem;bottom:.4rem;border:solid var(--ink);border-width:0 1.5px}
.jw::before{content:"";position:absolute;left:0;right:0;top:50%;border-top:1.5px solid var(--ink);
margin-top:-.75px}
.ja{text-align:right;font-variant-numeric:tabular-nums;line-height:1.25}
.ja small{display:block;color:var(--soft);font-size:.78rem}
.cols{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:.8rem}
.col{border:1px solid var(--line);border-radius:.6rem;padding:.8rem .9rem}
.col.took{border-color:var(--good);border-width:2px}
.col b.big{display:block;font-size:1.3rem;font-weight:650;font-variant-numeric:tabular-nums}
.share{display:flex;height:1.5rem;border-radius:.3rem;overflow:hidden;background:var(--track);
margin:.5rem 0}
.share i{display:block;background:var(--worker);opacity:.3;border-right:2px solid var(--card)}
.share i.me{opacity:1}
details{border-top:1px solid var(--line)}details:first-of-type{border-top:0}
summary{cursor:pointer;padding:.45rem 0;display:flex;flex-wrap:wrap;gap:0 .6rem;
align-items:baseline}
summary::before{content:"+";color:var(--soft);width:.8rem;font-weight:600}
details[open]>summary::before{content:"\\2212"}
summary:focus-visible,a:focus-visible{outline:2px solid var(--edge);outline-offset:2px}
details .in{padding:0 0 .8rem 1.4rem;overflow-x:auto}
.kv td:first-child{color:var(--soft);width:45%}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem;margin:.4rem 0 0}
dt{font-weight:600;font-size:.86rem}dd{margin:0;color:var(--soft);font-size:.86rem}
@media(max-width:46rem){main{padding:1.2rem .8rem 3rem}
.cards{grid-template-columns:repeat(2,minmax(0,1fr))}.cols{grid-template-columns:1fr}
section{padding:.9rem}.card b{font-size:1.25rem}h1{font-size:1.4rem}
.wf thead{display:none}.wf tr{display:grid;grid-template-columns:1fr max-content max-content;
padding:.25rem 0}.wf .n{grid-column:1/2;width:auto;white-space:normal}.wf td.r{width:auto}.wf .t{
grid-column:1/-1;grid-row:2;padding:0}
.wf td.r{padding-left:.8rem}.index .w{display:none}.jr{grid-template-columns:1fr max-content;
row-gap:.15rem}.jt{grid-row:2;grid-column:1/-1}.ja small{display:inline;margin-left:.4rem}dl{
grid-template-columns:1fr}
dd{margin-bottom:.3rem}}
@media print{body{background:#fff;font-size:11px}main{max-width:none;padding:0}
section,.card{break-inside:avoid}article+article{break-before:page}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
