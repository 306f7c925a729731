"""The look of a run's report, on top of the traces' pages: one accent in three strengths."""

from setsuden.insight.traces.html_style import STYLE as _SHARED

STYLE = (
    _SHARED
    + """
:root{--page:#fff;--accent:#0b5a4a;--mid:#4c9a88;--tint:#cfe5de;--other-way:#82919e;
--hole:#e9edf0;--soft:#55626f;--line:#e3e8ec}
@media(prefers-color-scheme:dark){:root{--page:#11171d;--accent:#86dcc3;--mid:#3f957f;
--tint:#1d463c;--other-way:#7d8d9b;--hole:#222b34;--soft:#a3b0bc;--line:#2a343e}}
body{background:var(--page);font:16px/1.6 -apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,
sans-serif;-webkit-text-size-adjust:100%}
main{max-width:62rem;padding:4rem 2rem 6rem}
a{text-decoration-color:var(--mid);text-underline-offset:.2em}
a:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:3px}
.eyebrow{color:var(--accent);font-weight:600}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}
.report-name{font-size:1.35rem;line-height:1.3;font-weight:600;margin:.2rem 0 .1rem;
overflow-wrap:anywhere;letter-spacing:-.01em}
.meta{font-size:.9rem}
.headline{margin:3rem 0 0;
font-size:1.25rem;line-height:1.45;font-weight:400;letter-spacing:0}
.headline b{display:block;font-size:clamp(2.9rem,11vw,5.5rem);line-height:1;font-weight:650;
letter-spacing:-.035em;margin:0 0 .9rem;font-variant-numeric:tabular-nums;color:var(--accent)}
.headline b.unknown{color:var(--soft);font-weight:500}
.headline b small{font-size:.42em;font-weight:500;letter-spacing:-.01em}
.stands{max-width:42rem;margin:.6rem 0 0;color:var(--soft)}
.verdicts{display:grid;grid-template-columns:1fr 1fr;gap:0 3rem;margin:3rem 0 0}
.verdicts>div{border-top:2px solid var(--accent);padding-top:.9rem}
.verdicts p{margin:0}.verdicts .against{color:var(--soft);font-size:.9rem}
.verdicts .word{font-size:1.6rem;line-height:1.25;font-weight:600;letter-spacing:-.015em;
margin:.15rem 0 .4rem}
.alert{margin:2.5rem 0 0;padding:.8rem 0;border-top:1px solid var(--line);
border-bottom:1px solid var(--line)}
nav{margin:2.75rem 0 0;font-size:.9rem}nav ul{display:flex;flex-wrap:wrap;gap:.4rem 1.5rem;
list-style:none;margin:0;padding:0}
section{background:none;border:0;border-top:1px solid var(--line);border-radius:0;
padding:3rem 0 0;margin-top:3.5rem}
h2{font-size:1.55rem;line-height:1.25;letter-spacing:-.015em;margin:0 0 .5rem;font-weight:650;
text-wrap:balance}
h3{font-size:1.05rem;margin:2.75rem 0 .3rem;font-weight:650}
.lead{max-width:42rem;color:var(--soft);margin:0 0 1.8rem;text-wrap:pretty}
.prose{max-width:42rem}
.plot{margin:1.6rem 0 1.2rem}
.plot svg{display:block;overflow:visible}
figcaption{color:var(--soft);font-size:.86rem;margin-top:.8rem;max-width:42rem}
svg text{fill:var(--ink);font-size:14px;font-variant-numeric:tabular-nums}
svg text.strong{font-weight:650}svg text.none,.x{fill:var(--soft);color:var(--soft);
font-style:italic}
svg .soft{fill:var(--soft)}svg text.tick{fill:var(--soft);font-size:12px}
svg text.halo-text{paint-order:stroke;stroke:var(--page);stroke-width:6px}
.s-dynamic{fill:var(--accent);background:var(--accent)}
.s-idle{fill:var(--mid);background:var(--mid)}
.s-overhead{fill:var(--tint);background:var(--tint);box-shadow:inset 0 0 0 1px var(--mid)}
rect.s-overhead{stroke:var(--mid);stroke-width:1px}
.s-other{fill:var(--other-way);background:var(--other-way)}
.s-hole,.hole{fill:var(--hole);background:var(--hole)}
.track-all{fill:var(--hole)}
.cut{stroke:var(--page);stroke-width:3px}
.rule{stroke:var(--line);stroke-width:1px}.ground,.zero{stroke:var(--soft);stroke-width:1px}
.halo{stroke:var(--page);stroke-width:4.5px;stroke-linecap:round}
.whisker{stroke:var(--ink);stroke-width:1.75px;fill:none}
.dotted{fill:var(--accent);stroke:var(--page);stroke-width:2px}
.curve{fill:none;stroke:var(--accent);stroke-width:1.5px;vector-effect:non-scaling-stroke;
stroke-linejoin:round}
.area{fill:var(--tint);opacity:.65}.curve.rate{stroke:var(--other-way)}
.area.rate{fill:var(--hole)}
.key{display:flex;flex-wrap:wrap;gap:.3rem 1.6rem;list-style:none;margin:0 0 1.2rem;padding:0;
font-size:.88rem;color:var(--soft)}
.key i{display:inline-block;width:1rem;height:.8rem;margin-right:.5rem;vertical-align:-.06rem}
.key i.k-whisker{background:linear-gradient(var(--ink),var(--ink)) center/100% 1.75px no-repeat;
border:solid var(--ink);border-width:0 1.75px;width:1.4rem}
table{margin:.4rem 0 0;font-size:.92rem;line-height:1.4}
caption{text-align:left;color:var(--soft);font-size:.86rem;padding:0 0 .4rem}
th,td{padding:.5rem 1.1rem .5rem 0;overflow-wrap:anywhere}
th:last-child,td:last-child{padding-right:0}
thead th{border-bottom:1px solid var(--soft);font-size:.8rem;vertical-align:bottom;
overflow-wrap:normal}
tbody th{color:var(--ink);font-weight:500;font-size:.92rem;text-align:left}
td small,th small{display:block;color:var(--soft);font-size:.82rem;font-weight:400;
overflow-wrap:anywhere}
.num{text-align:right}tbody td.num{white-space:nowrap}
.num+th:not(.num),.num+td:not(.num){padding-left:1.2rem}
tr:last-child>th{border-bottom:0}thead tr:last-child>th{border-bottom:1px solid var(--soft)}
.slim{max-width:34rem}.dense td{text-align:right}
.dense td,.dense tbody th{padding-top:.25rem;padding-bottom:.25rem}
.facts+table,.lines+table,table+.lines{margin-top:1.6rem}
.asked{margin:1.6rem 0 0;color:var(--soft);font-size:.92rem}
.lines{font-size:.95rem}
tr.sum th,tr.sum td{font-weight:650}
code{background:none;font-size:.88em}
pre{margin:.8rem 0;padding:.8rem 1rem;background:var(--hole);white-space:pre-wrap;
overflow-wrap:anywhere;font-size:.88rem}
.lines{margin:.4rem 0 0;padding:0 0 0 1.1rem;max-width:46rem}.lines li{margin:.3rem 0;
overflow-wrap:anywhere}
.facts{grid-template-columns:12rem 1fr;gap:.55rem 1.5rem;margin:1rem 0 0;max-width:50rem}
.facts dt,.facts dd{font-size:.95rem}.facts dd{color:var(--ink);overflow-wrap:anywhere}
.facts dt{font-weight:500;color:var(--soft)}
.big{display:flex;flex-wrap:wrap;gap:1.2rem 4rem;margin:0 0 1.6rem}
.big div{flex:1 1 14rem}
.big b{display:block;font-size:2.2rem;line-height:1.15;font-weight:650;letter-spacing:-.02em;
font-variant-numeric:tabular-nums;color:var(--accent)}
.big b small{font-size:.55em;font-weight:500;letter-spacing:-.01em}
.big b.unknown{color:var(--soft);font-weight:500}
.big span{display:block;color:var(--soft);font-size:.9rem}
.find{list-style:none;margin:1rem 0 0;padding:0;max-width:46rem}
.find li{padding:.9rem 0;border-top:1px solid var(--line)}
.find b{font-weight:650}.find .kind{display:block;font-size:.82rem;color:var(--soft);
font-weight:600}.find .error .kind{color:var(--bad)}
.find p{margin:.2rem 0 0;overflow-wrap:anywhere}
.find .advice,.find .evidence{color:var(--soft);font-size:.92rem}
details{border:0;border-top:1px solid var(--line);margin-top:1rem}
details:first-of-type{border-top:1px solid var(--line)}
summary{padding:.7rem 0;font-size:.92rem;color:var(--soft)}
details .in{padding:0 0 1rem;overflow-x:visible}
footer{margin-top:4rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--soft);
font-size:.86rem}
@media(max-width:46rem){main{padding:2rem 1.25rem 4rem}.verdicts{grid-template-columns:1fr;
gap:2rem}.headline{margin-top:2.2rem;font-size:1.1rem}section{padding:2.2rem 0 0;
margin-top:2.5rem}h2{font-size:1.3rem}.big b{font-size:1.8rem}
svg .wide{display:none}
.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:.6rem}
.rows,.rows caption,.rows tbody,.rows tr,.rows tbody th,.rows td{display:block}
.rows thead{position:absolute;left:-99rem}
.rows tr{border-top:1px solid var(--line);padding:.6rem 0}
.rows tbody th,.rows td{border:0;padding:.12rem 0}.rows tbody th{font-weight:650}
.rows td{display:grid;grid-template-columns:minmax(6.5rem,38%) 1fr;gap:0 .8rem}
.rows td::before{content:attr(data-l);color:var(--soft);font-size:.84rem}
.rows td:empty{display:none}.rows td>*{grid-column:2}.rows td>:first-child{grid-row:1}
.rows td.num{text-align:left;white-space:normal}.num+td:not(.num){padding-left:0}
.dense,.dense thead th,.dense tbody th{font-size:.74rem}.dense th,.dense td{padding-right:.4rem}
.dense tbody td.num{white-space:normal}}
@media print{@page{margin:16mm}body{background:#fff;font-size:10.5pt}main{padding:0}
nav,.skip,.screen{display:none}section{break-inside:auto;padding-top:1.6rem;margin-top:1.8rem}
h2,h3,caption{break-after:avoid}.plot,tr,.find li,.verdicts>div{break-inside:avoid}
details::details-content{content-visibility:visible;block-size:auto}}
@media print and (prefers-color-scheme:dark){:root{color-scheme:light;--page:#fff;--ink:#17202b;
--soft:#55626f;--line:#e3e8ec;--accent:#0b5a4a;--mid:#4c9a88;--tint:#cfe5de;--hole:#e9edf0;
--other-way:#82919e;--bad:#b3261e}}
"""
)
