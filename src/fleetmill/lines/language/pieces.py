"""Which bytes are read together: the merges of the line's byte-level BPE, in order.

Learned once by `bench/language.py merges` from text-tinyshakespeare and text-gsm8k. They are part of the line as
a camera's size is: a model of other merges is of another line.
"""

from __future__ import annotations

from fleetmill.lines.splits import SPLITS
from fleetmill.lines.vocabulary import Vocabulary

_TEXT = r"""
Ġ·t h·e Ġ·a i·n Ġ·s Ġt·he r·e Ġ·o Ġ·m e·s Ġ·h e·r Ġ·w Ġ·b Ġ·c Ġ·f n·d Ġ·p o·u i·s Ġo·f Ġt·o a·n <·< >·> Ġ·d a·r a·t
l·l #·# .·Ċ o·r Ġ·= o·n e·n Ġt·h a·s a·l Ġ·$ e·d i·t Ġ·n o·w in·g Ġ·<< Ġ·l Ġa·nd Ġ·he Ġ·in c·h Ġ·g Ġ·e a·y e·t Ġ·is
T·he s·t o·m v·e c·e i·r o·t Ġf·or Ġ·y u·t :·Ċ ou·r l·e Ġb·e Ġ·I Ġw·e r·i ##·## i·ll Ġo·n l·d a·d i·m a·k Ġ·H c·k Ġ·re
en·t t·al Ġto·tal Ġs·t s·e i·d Ġh·as o·o Ġm·an o·re u·m g·h a·ch a·ve i·l a·m Ġman·y Ġa·re Ġd·o Ġth·at Ġ·+ ,·Ċ Ġc·o
Ġs·he Ġa·s er·s a·ll '·s Ġs·o .Ċ·Ċ u·r b·er Ġs·e Ġh·is Ġ·r he·r Ġn·e Ġe·ach t·s Ġw·ill t·h Ġ·u Ġ$·<< v·er t·er Ġhe·r
it·h Ġd·ay ar·s um·ber Ġw·h Ġs·p Ġn·umber Ġh·our Ġh·ave ĠH·ow a·g Ġ·it Ġm·u a·in Ġs·h gh·t Ġp·er Ġm·e Ġ·k a·nd Ġw·ith
n·t Ġm·in i·on Ġ·S Ġa·t Ġ·* =·<< l·y ak·e Ġco·st Ġy·ou l·es Ġ·M T·h i·e r·o Ġh·ow Ġt·im q·u nd·s Ġy·e k·s Ġt·w Ġc·h
Ġl·e Ġb·u c·t Ġmin·ut Ġa·n Ġ·x i·es Ġ·- Ġf·r Ġth·an i·f a·u Ġm·y Ġw·as Ġm·ore Ġc·an Ġ·A Ġwe·e r·a Ġm·on o·p Ġb·y
Ġhour·s ĠI·f Ġminut·es c·es Ġmu·ch u·n e·l Ġn·ot ar·d ir·st Ġne·ed i·ce c·o Ġthe·re in·d Ġ·J p·p om·e Ġfr·om Ġf·e i·ck
Ġ·C Ġa·ll Ġp·l Ġthe·y Ġ·The i·v u·s Ġp·a ou·nt Ġd·e re·e ak·es Ġw·or ou·ld ar·t S·o Ġ·B A·nd Ġsp·e Ġd·id et·s Ċ·Ċ on·s
Ġth·is ent·s p·s Ġwee·k Ġa·m Ġdo·es d·ay Ġc·om u·d The·re Ġh·ad W·h c·he oo·d at·e e·y Ġh·im Ġb·o H·e Ġye·ars Ġon·e
Ġ·j es·t Ġ·v Ġtim·es Ġ·/ Ġm·il Ġp·e g·e f·t i·ght Ġf·ind a·re u·l i·ch Ġwe·re Ġ·E Ġo·r f·ter ver·y i·c au·se a·v f·ore
Ġt·r Ġbu·y Ġthe·n Ġl·o g·s ĠH·e Ġg·o oo·k i·ve Ġbe·c ;·Ċ Ġf·irst Ġ·T es·s Ġa·d Ġy·our as·t Ġtw·o Ġb·l al·f Ġday·s
Ġle·ft a·b Ġ·R Ġs·u Ġc·l Ġbec·ause Ġmil·es Ġse·co Ġb·r Ġb·ut Ġthe·m an·t Ġth·ou s·es r·y Ġt·e ag·e che·s Ġst·ud u·e
I·f Ġu·p a·ck am·e Ġth·ree is·h Ġm·ake Ġp·ou an·s ot·her at·h '·d Ġ·L re·s Ġp·o k·e Ġh·alf on·g Ġ·O Ġo·ld I·n Ġneed·s
Ġa·l Ġtim·e Ġg·r E·N Ġthe·ir or·d ri·e i·g Ġmon·th Ġp·ro ou·ght Ġc·on Ġf·l Ġe·ar I·N Ġc·u The·n op·le ?·ĊĊ Ġtw·ice w·e
Ġmon·ey Ġpe·ople i·p Ġam·ount Ġe·very i·z Ġa·pp Ġre·m I·O ing·s T·o Ġw·at Ġp·ay ow·n Ġm·ar Ġpou·nds Ġb·ot ad·e
Ġstud·ents Ġw·he i·gh ir·d Ġ·F as·s Ġr·o Ġ·G at·s Ġw·ould Ġn·ow Ġfe·et g·et Ġ·P Ġd·is Ġ·D Ġo·ut oo·ks Ġseco·nd ĠS·he
Ġwh·at id·e A·R Ġt·ake re·d an·ts Ġb·ought in·e Ġ·if Ġwh·ich Ġn·o Ġad·d f·e Ġs·c Ġf·rie ck·s Ġg·et Ġk·n oo·l Ġa·fter
b·le Ġbo·x Ġu·s at·ion â·Ģ Ġ·W Ġe·x Ġ·qu ag·es Ġse·ll re·n S·he a·p =·$ Wh·at Ġear·n i·ld in·ce Ġrem·ain o·l o·s an·ce
Ġp·ie Ġth·y Ġye·ar =$·<< on·e Ġwh·o t·o ow·s Th·at Ġ·K Ġl·ong Ġdo·ll t·e *·. a·c Ġso·ld Ġb·ooks i·le Ġp·ri Ġne·w i·ke
ou·s U·S Ġt·akes ar·k ou·nd Ġwat·er a·ir Ġm·o Ġc·ar Ġm·ade Ġs·l Ġcom·p e·ct an·g en·s Ġto·o a·ce ard·s get·her Ġf·our
Ġc·ook e·m Ġsp·ent Ġcost·s F·irst Ġt·ri Ġa·r w·n Ġapp·les ar·y Ġin·ches Ġp·r Ġre·ad Ġe·qu al·s Ġwor·k Ġg·all or·n se·l
e·p it·y a·il F·or Ġpie·ces Ġdoll·ars Ġme·ans âĢ·Ļ Ġof·f b·les u·re ou·gh Ġremain·ing Ġcon·t Ġthe·e Ġo·ur Ġc·and
at·her ou·se Ġsh·all Ġb·ag Ġr·un Ġp·ages is·t all·y p·er âĢĻ·s Ġu·n U·C f·f Ġpo·in Ġth·ird O·n Ġre·st Ġco·ll Ġpl·ay
Ġ·ri Ġf·o ch·ool There·fore Ġpri·ce i·a Ġa·g o·se e·ll IN·G Ġb·re or·t it·s am·es i·re Ġ·N Ġspe·nd w·ay Ġe·at Ġs·qu
Ġg·ood an·k as·e it·e Ġs·al '·ll Ġo·un Ġfrie·nds Ġs·chool E·R o·nd Ġwhe·n O·R Ġh·o in·k t·her Ġc·al v·es o·d Ġwee·ks
ĠO·n o·es Ġre·d S·ince en·ce Ġbr·other n·g Ġd·r Ġs·ome Ġcook·ies Ġ·en Ġf·ish !·Ċ Ġ·' Ġg·re E·S Ġp·art E·T Ġb·all A·N
Ġmar·bles Ġcl·ass Ġbot·t Ġpoin·ts Ġst·ore d·e Ġt·ick Ġm·akes Ġsc·ore v·en i·ces l·s Ġe·g Th·is iv·es Ġbot·h Ġl·ess
Ġon·ly sel·f Ġa·c Ġsqu·are Ġw·ants y·s Th·us in·s l·t !·ĊĊ Ġ·V u·es Ġa·ver Ġgall·ons Ġin·to Ġl·et Ġc·r Ġh·ouse Ġl·ord
Ġg·ave Ġbe·fore ur·n Ġoun·ces Ġmu·st Ġre·ce s·o Ġch·ild Ġde·c m·ent Ġc·he Ġ·( ot·h W·he o·h Ġf·in at·es ain·t Ġspe·nds
or·s Ġp·en B·ut re·nt Ġw·al Ġin·c ct·ion Ġ·What Ġg·ets Ġl·ast Ġbox·es u·ll Ġcoll·ect u·st Ġo·ther Ġpa·id o·b Ġt·re
Ġkn·ow Ġaver·age ?·Ċ er·v x·t Ġg·ot Ġtoo·k Ġsh·ould p·h oh·n Ġl·it Ġo·ver ll·ow Ġbl·ue i·o Ġal·so K·ING Ġh·ome et·ers
Ġf·ar Ġl·ike Ġ·Y ĠM·ar Ġthe·se el·s ou·t Ġb·et ri·es ĠE·ach I·C c·ount if·e Ġbuy·s ut·s Ġeg·gs Ġth·r iz·z a·w Ġch·ar
Ġs·ay Ġs·ir il·y Ġd·iv ra·ct Ġpa·ir Ġs·ame p·l Ġc·ards Ġb·ack it·ion Ġus·ed id·es L·O Ġwe·igh am·s Ġd·ri Ġpa·ck c·i
Ġat·e Ġa·ge Ġf·ather Ġc·ome o·g Ġs·m I·US c·ent an·n AR·D Ġs·on Ġo·wn Ġsl·ices i·x Ġmu·lt Ġp·izz Ġsu·b Ġhe·re Ġ·.
Ġa·way Ġc·ur d·s Ġc·ars b·in Ġtri·p '·t
"""
_MERGES = tuple((a, b) for a, _, b in (merge.partition("·") for merge in _TEXT.split()))
OURS = Vocabulary(merges=_MERGES, split=SPLITS["qwen2"])
